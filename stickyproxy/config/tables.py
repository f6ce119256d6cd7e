"""The tables of the configuration file, as pydantic reads them, and what each comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    StrictInt,
    ValidationInfo,
    field_validator,
)

from stickyproxy.base.addresses import Address
from stickyproxy.config import admitting, pages, pem, values
from stickyproxy.config.options import ClientCertificates, ServerName, ServiceOptions, Timeout
from stickyproxy.config.settings import (
    ADMIN_ADDRESS,
    AcmeSettings,
    CertificateFiles,
    Challenge,
    Config,
    ControllerSettings,
    DockerSettings,
    EngineSettings,
    FollowSettings,
    JoinBy,
    KeyType,
    LogSettings,
    OperatorSettings,
    SwarmSettings,
)
from stickyproxy.model.listener import ListenerSpec
from stickyproxy.model.service import EndpointSpec
from stickyproxy.model.settings import (
    AccessLogSettings,
    LogFormat,
    Network,
    ProcessLogFormat,
    ProxySettings,
    TracingSettings,
)
from stickyproxy.model.tls import ClientAuth, ListenerTls, UpstreamTls

_PROXY = ProxySettings()
_ACCESS_LOG = AccessLogSettings()
_LOG = LogSettings()
_TRACING = TracingSettings()
_ENGINE = EngineSettings()
_SWARM = SwarmSettings()


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _ListenerTable(_Table):
    address: Annotated[Address, PlainValidator(values.listener_address)]
    tls: StrictBool = False
    redirect_to_https: Annotated[StrictBool | int, PlainValidator(values.https_port)] = False
    proxy_protocol: StrictBool = False
    client_ca: Annotated[pem.PemFile, PlainValidator(pem.ca_file)] | None = None
    client_certificates: ClientCertificates | None = None

    @field_validator("redirect_to_https")
    @classmethod
    def _not_on_tls(cls, value: bool | int, info: ValidationInfo) -> bool | int:
        if value is not False and info.data.get("tls"):
            raise ValueError("has no meaning with tls = true: remove it")
        return value

    @field_validator("client_ca")
    @classmethod
    def _needs_tls(cls, value: pem.PemFile | None, info: ValidationInfo) -> pem.PemFile | None:
        if value is not None and info.data.get("tls") is False:
            raise ValueError("has no meaning without tls: set tls = true, or remove this key")
        return value

    @field_validator("client_certificates")
    @classmethod
    def _needs_client_ca(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("client_ca", "invalid") is None:
            raise ValueError("has no meaning without client_ca: set that too, or remove this key")
        return value

    def spec(self, https_port: int) -> ListenerSpec:
        """``https_port``: where requests are redirected, if that is not said."""
        tls = None
        if self.tls and self.client_ca is not None:
            tls = ListenerTls(
                ClientAuth(self.client_ca.text, self.client_certificates != "optional")
            )
        elif self.tls:
            tls = ListenerTls()
        port = self.redirect_to_https
        return ListenerSpec(
            self.address,
            tls=tls,
            redirect_to_https=None if port is False else https_port if port is True else port,
            proxy_protocol=self.proxy_protocol,
        )


class _ProxyTable(_Table):
    workers: Annotated[StrictInt, Field(ge=0, le=256)] = _PROXY.workers
    trusted_proxies: tuple[
        Annotated[Network | Literal["unix:"], PlainValidator(values.trusted_proxy)], ...
    ] = ()
    hide_info_headers: StrictBool = _PROXY.hide_info_headers
    default_certificate: StrictBool = _PROXY.default_certificate
    secret: Annotated[bytes, PlainValidator(values.secret)] | None = None
    secret_file: Annotated[bytes, PlainValidator(values.secret_from_file)] | None = None
    connect_timeout: Timeout = _PROXY.connect_timeout
    response_timeout: Timeout = _PROXY.response_timeout
    response_idle_timeout: Timeout | None = None
    client_timeout: Timeout = _PROXY.client_timeout
    upgrade_idle_timeout: Timeout | None = None
    keepalive_timeout: Timeout = _PROXY.keepalive_timeout
    head_timeout: Timeout = _PROXY.head_timeout
    handshake_timeout: Timeout = _PROXY.handshake_timeout
    upstream_idle_timeout: Timeout = _PROXY.upstream_idle_timeout
    grace_period: Timeout = _PROXY.grace_period
    worker_timeout: Timeout = _PROXY.worker_timeout
    upstream_ca: Annotated[pem.PemFile, PlainValidator(pem.ca_file)] | None = None
    probe_new_endpoints: StrictBool = _PROXY.probe_new_endpoints
    handover: Annotated[str, PlainValidator(values.handover_socket)] | None = None
    keeper: Annotated[str, PlainValidator(values.handover_socket)] | None = None
    session_window: Annotated[float, PlainValidator(values.session_window)] = _PROXY.session_window
    max_head: Annotated[StrictInt, Field(ge=4096, le=1 << 20)] = _PROXY.max_head
    max_head_line: Annotated[StrictInt, Field(ge=1024, le=65536)] = _PROXY.max_head_line
    max_headers: Annotated[StrictInt, Field(ge=16, le=4096)] = _PROXY.max_headers
    max_connections: Annotated[StrictInt, Field(ge=1, le=10**7)] | None = None
    max_connections_per_client: Annotated[StrictInt, Field(ge=1, le=10**7)] | None = None
    reason_for: tuple[Annotated[Network, PlainValidator(admitting.network)], ...] = ()

    @field_validator("secret_file")
    @classmethod
    def _one_secret(cls, value: bytes, info: ValidationInfo) -> bytes:
        if info.data.get("secret"):
            raise ValueError("cannot be combined with secret: remove one of the two")
        return value

    @field_validator("keeper")
    @classmethod
    def _one_source_of_listeners(cls, value: str, info: ValidationInfo) -> str:
        if value and info.data.get("handover"):
            raise ValueError(
                "cannot be combined with handover: a keeper hands the listeners from one proxy to "
                "the next; remove one of the two"
            )
        return value

    def settings(self) -> ProxySettings:
        return ProxySettings(
            workers=self.workers,
            trusted_proxies=tuple(p for p in self.trusted_proxies if not isinstance(p, str)),
            trust_unix="unix:" in self.trusted_proxies,
            hide_info_headers=self.hide_info_headers,
            default_certificate=self.default_certificate,
            pin_secret=self.secret or self.secret_file,
            connect_timeout=self.connect_timeout,
            response_timeout=self.response_timeout,
            response_idle_timeout=self.response_idle_timeout,
            client_timeout=self.client_timeout,
            upgrade_idle_timeout=self.upgrade_idle_timeout,
            keepalive_timeout=self.keepalive_timeout,
            head_timeout=self.head_timeout,
            handshake_timeout=self.handshake_timeout,
            upstream_idle_timeout=self.upstream_idle_timeout,
            grace_period=self.grace_period,
            session_window=self.session_window,
            worker_timeout=self.worker_timeout,
            upstream_ca=self.upstream_ca.text if self.upstream_ca else "",
            probe_new_endpoints=self.probe_new_endpoints,
            handover=self.handover,
            keeper=self.keeper,
            max_head=self.max_head,
            max_head_line=self.max_head_line,
            max_headers=self.max_headers,
            max_connections=self.max_connections,
            max_connections_per_client=self.max_connections_per_client,
            reason_for=self.reason_for,
        )


class _AccessLogTable(_Table):
    format: LogFormat = _ACCESS_LOG.format
    path: Annotated[str, PlainValidator(values.log_path)] = _ACCESS_LOG.path


class _LogTable(_Table):
    format: ProcessLogFormat = _LOG.format


class _TracingTable(_Table):
    endpoint: Annotated[str, PlainValidator(values.collector)] = _TRACING.endpoint
    sample: Annotated[float, PlainValidator(values.fraction)] = _TRACING.sample
    service_name: Annotated[str, PlainValidator(values.service_name)] = _TRACING.service_name

    def settings(self) -> TracingSettings:
        return TracingSettings(self.endpoint, self.sample, self.service_name)


class _CertificateTable(_Table):
    # Files are not looked at: what is wrong with them is a problem of a certificate, and can change
    # while the configuration stays as it is.
    cert: Annotated[str, PlainValidator(values.pem_file)]
    key: Annotated[str, PlainValidator(values.pem_file)]
    default: StrictBool = False


def _key_of_cert(value: object, info: ValidationInfo) -> pem.PemFile | None:
    certificate = info.data.get("cert", "invalid")
    if certificate == "invalid":
        return None  # what is wrong with that is told
    if value is None and certificate is not None:
        raise ValueError("is required with cert: name the file that holds its key")
    if value is not None and certificate is None:
        raise ValueError("has no meaning without cert: set that too, or remove this key")
    return None if value is None else pem.key_file(value, certificate)


class _UpstreamTlsTable(_Table):
    verify: StrictBool = True
    ca: Annotated[pem.PemFile, PlainValidator(pem.ca_file)] | None = None
    server_name: ServerName | None = None
    cert: Annotated[pem.PemFile, PlainValidator(pem.certificate_file)] | None = None
    key: Annotated[pem.PemFile | None, PlainValidator(_key_of_cert)] = Field(
        None, validate_default=True
    )

    @field_validator("ca")
    @classmethod
    def _verifies(cls, value: pem.PemFile | None, info: ValidationInfo) -> object:
        if value is not None and info.data.get("verify") is False:
            raise ValueError("has no meaning with verify = false: remove one of the two")
        return value

    @property
    def files(self) -> tuple[str, ...]:
        """Those that were read."""
        return tuple(each.path for each in (self.ca, self.cert, self.key) if each is not None)

    def upstream_tls(self) -> UpstreamTls:
        return UpstreamTls(
            verify=self.verify,
            ca=self.ca.text if self.ca else "",
            server_name=self.server_name or "",
            certificate=self.cert.text if self.cert else "",
            key=self.key.text if self.key else "",
        )


class _ServiceTable(ServiceOptions):
    # Inherited keys are validated first: endpoints may look at port.
    name: Annotated[str, PlainValidator(values.service_name)]
    endpoints: tuple[Annotated[EndpointSpec, PlainValidator(values.endpoint)], ...] = ()
    client_ca: Annotated[pem.PemFile, PlainValidator(pem.ca_file)] | None = None
    ssl_backend_ca: Annotated[pem.PemFile, PlainValidator(pem.ca_file)] | None = None
    error_page: Annotated[pages.PageFile, PlainValidator(pages.page_file)] | None = None
    tls: _UpstreamTlsTable | None = None

    @field_validator("tls")
    @classmethod
    def _can_be_had(
        cls, value: _UpstreamTlsTable | None, info: ValidationInfo
    ) -> _UpstreamTlsTable | None:
        if value is None:
            return value
        for other in ("ssl_backend", "ssl_passthrough"):
            if info.data.get(other):
                raise ValueError(f"cannot be combined with {other}: remove one of the two")
        unnamed = value.verify and not value.server_name
        if unnamed and any(each.address[:5] == "unix:" for each in info.data.get("endpoints", ())):
            raise ValueError(
                "needs server_name, because a unix socket has no name that a certificate is for"
            )
        return value

    def upstream_tls(self) -> UpstreamTls | None:
        return self.tls.upstream_tls() if self.tls else super().upstream_tls()

    @property
    def files(self) -> tuple[str, ...]:
        """Those that were read."""
        read = (self.client_ca, self.ssl_backend_ca, self.error_page)
        paths = (each.path for each in read if each is not None)
        return (*paths, *(self.tls.files if self.tls else ()))


class _AdminTable(_Table):
    address: Annotated[Address, PlainValidator(values.listener_address)] = ADMIN_ADDRESS
    state_file: Annotated[str, PlainValidator(values.orders_file)] | None = None
    change_token: Annotated[bytes, PlainValidator(values.secret)] | None = None
    change_token_file: Annotated[bytes, PlainValidator(values.secret_from_file)] | None = None

    read_token: Annotated[bytes, PlainValidator(values.secret)] | None = None
    read_token_file: Annotated[bytes, PlainValidator(values.secret_from_file)] | None = None

    @field_validator("change_token_file", "read_token_file")
    @classmethod
    def _one_token(cls, value: bytes, info: ValidationInfo) -> bytes:
        other = str(info.field_name).removesuffix("_file")
        if info.data.get(other):
            raise ValueError(f"cannot be combined with {other}: remove one of the two")
        return value

    def operator(self) -> OperatorSettings:
        change = self.change_token or self.change_token_file or b""
        read = self.read_token or self.read_token_file or b""
        return OperatorSettings(self.state_file, change, read)


class _TokenTable(_Table):
    token: Annotated[bytes, PlainValidator(values.secret)] | None = None
    token_file: Annotated[bytes, PlainValidator(values.secret_from_file)] | None = Field(
        None, validate_default=True
    )

    @field_validator("token_file")
    @classmethod
    def _one_token(cls, value: bytes | None, info: ValidationInfo) -> bytes | None:
        if "token" in info.data and (value is None) == (info.data["token"] is None):
            raise ValueError(
                "is required: name the file that holds the token that controller and proxies share"
                if value is None
                else "cannot be combined with token: remove one of the two"
            )
        return value

    def secret(self) -> bytes:
        return self.token or self.token_file or b""


class _ControllerTable(_TokenTable):
    address: Annotated[Address, PlainValidator(values.listener_address)]
    state_file: Annotated[str, PlainValidator(values.orders_file)] | None = None

    def settings(self) -> ControllerSettings:
        return ControllerSettings(self.address, self.secret(), self.state_file)


class _EngineTable(_Table):
    endpoint: Annotated[str, PlainValidator(values.engine_endpoint)] = _ENGINE.endpoint
    poll_interval: Timeout = _ENGINE.poll_interval
    tls_ca: Annotated[str, PlainValidator(values.file)] | None = None
    tls_cert: Annotated[str, PlainValidator(values.file)] | None = None
    tls_key: Annotated[str, PlainValidator(values.file)] | None = Field(None, validate_default=True)
    service_cluster: Annotated[str, PlainValidator(values.service_name)] | None = None

    @field_validator("tls_cert")
    @classmethod
    def _needs_tls_ca(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("tls_ca", "invalid") is None:
            raise ValueError(
                "needs tls_ca too, or any server would be taken for the engine: name the CA "
                "that its certificate is verified with"
            )
        return value

    @field_validator("tls_key")
    @classmethod
    def _belongs_to_tls_cert(cls, value: str | None, info: ValidationInfo) -> str | None:
        certificate = info.data.get("tls_cert", "invalid")
        if value is None and certificate not in (None, "invalid"):
            raise ValueError("is required with tls_cert: name the file that holds its key")
        if value is not None and certificate is None:
            raise ValueError("has no meaning without tls_cert: set that too, or remove this key")
        return value


class _DockerTable(_EngineTable):
    def settings(self) -> DockerSettings:
        return DockerSettings(**{key: getattr(self, key) for key in type(self).model_fields})


class _SwarmTable(_EngineTable):
    attach_networks: StrictBool = _SWARM.attach_networks
    join_by: JoinBy = _SWARM.join_by
    networks: tuple[Annotated[str, PlainValidator(values.network_pattern)], ...] = ()
    release_networks_after: Timeout = _SWARM.release_networks_after
    proxy_service: Annotated[str, PlainValidator(values.service_name)] | None = None

    def settings(self) -> SwarmSettings:
        return SwarmSettings(**{key: getattr(self, key) for key in type(self).model_fields})


class _FollowTable(_TokenTable):
    url: Annotated[str, PlainValidator(values.controller_url)]
    cache_file: Annotated[str, PlainValidator(values.cache_file)] | None = None

    def settings(self) -> FollowSettings:
        return FollowSettings(self.url, self.secret(), self.cache_file)


class _ProvidersTable(_Table):
    swarm: _SwarmTable | None = None
    docker: _DockerTable | None = None
    controller: _FollowTable | None = None


class _AcmeTable(_Table):
    directory: Annotated[str, PlainValidator(values.acme_directory)]
    email: Annotated[str, PlainValidator(values.email)] | None = None
    terms_agreed: StrictBool = False
    storage: Annotated[str, PlainValidator(values.acme_storage)]
    secret: Annotated[bytes, PlainValidator(values.secret)] | None = None
    secret_file: Annotated[bytes, PlainValidator(values.secret_from_file)] | None = None
    challenge: Challenge = "http-01"
    key_type: KeyType = "ec256"
    ca_file: Annotated[str, PlainValidator(values.file)] | None = None
    eab_key_id: Annotated[str, PlainValidator(values.eab_key_id)] | None = None
    eab_key: Annotated[str, PlainValidator(values.eab_key)] | None = None
    eab_key_file: Annotated[str, PlainValidator(values.eab_key_from_file)] | None = Field(
        None, validate_default=True
    )

    @field_validator("secret_file")
    @classmethod
    def _one_secret(cls, value: bytes, info: ValidationInfo) -> bytes:
        if info.data.get("secret"):
            raise ValueError("cannot be combined with secret: remove one of the two")
        return value

    @field_validator("eab_key_file")
    @classmethod
    def _one_key_of_the_external_account(
        cls, value: str | None, info: ValidationInfo
    ) -> str | None:
        if value and info.data.get("eab_key"):
            raise ValueError("cannot be combined with eab_key: remove one of the two")
        has_key = bool(value or info.data.get("eab_key", "invalid"))
        has_id = bool(info.data.get("eab_key_id", "invalid"))
        if has_key and not has_id:
            raise ValueError("has no meaning without eab_key_id: set that too")
        if has_id and not has_key:
            raise ValueError("is required with eab_key_id: name the file that holds the key")
        return value

    def settings(self, secret: bytes) -> AcmeSettings:
        """``secret``: where it has none of its own."""
        return AcmeSettings(
            directory=self.directory,
            storage=self.storage,
            email=self.email or "",
            terms_agreed=self.terms_agreed,
            eab_key_id=self.eab_key_id or "",
            eab_key=self.eab_key or self.eab_key_file or "",
            ca_file=self.ca_file,
            challenge=self.challenge,
            key_type=self.key_type,
            secret=self.secret or self.secret_file or secret,
        )


class Document(_Table):
    listeners: tuple[_ListenerTable, ...] = ()
    proxy: _ProxyTable = _ProxyTable()
    access_log: _AccessLogTable = _AccessLogTable()
    log: _LogTable = _LogTable()
    services: tuple[_ServiceTable, ...] = ()
    certificates: tuple[_CertificateTable, ...] = ()
    admin: _AdminTable | None = None
    providers: _ProvidersTable = _ProvidersTable()
    controller: _ControllerTable | None = None
    acme: _AcmeTable | None = None
    tracing: _TracingTable | None = None

    @field_validator("acme")
    @classmethod
    def _can_be_kept_in_the_swarm(cls, value: _AcmeTable, info: ValidationInfo) -> _AcmeTable:
        """Looks at other tables: those that are wrong themselves are not there."""
        if value is None or value.storage != "swarm":
            return value
        providers = info.data.get("providers")
        if providers is not None and providers.swarm is None:
            raise ValueError(
                'storage = "swarm" takes a Swarm: add [providers.swarm], or name a directory'
            )
        if not {"proxy", "controller"} - info.data.keys() and not (
            value.secret or value.secret_file or _shared_secret(info.data)
        ):
            raise ValueError(
                'storage = "swarm" takes a secret to encrypt with, because configs can be read by '
                "whoever may ask a manager: set secret_file"
            )
        return value

    def config(self) -> Config:
        https_ports = [
            table.address.port for table in self.listeners if table.tls and table.address.port
        ]
        https_port = 443 if 443 in https_ports or not https_ports else https_ports[0]
        listeners = tuple(table.spec(https_port) for table in self.listeners)
        swarm, docker = self.providers.swarm, self.providers.docker
        follow = self.providers.controller
        controller = self.controller
        return Config(
            listeners=listeners or Config().listeners,
            proxy=replace(
                self.proxy.settings(),
                tracing=None if self.tracing is None else self.tracing.settings(),
            ),
            access_log=AccessLogSettings(self.access_log.format, self.access_log.path),
            log=LogSettings(self.log.format),
            certificates=tuple(
                CertificateFiles(table.cert, table.key, table.default)
                for table in self.certificates
            ),
            services=tuple(table.spec(table.name, table.endpoints) for table in self.services),
            files=tuple(dict.fromkeys(file for table in self.services for file in table.files)),
            admin=None if self.admin is None else self.admin.address,
            operator=OperatorSettings() if self.admin is None else self.admin.operator(),
            swarm=None if swarm is None else swarm.settings(),
            docker=None if docker is None else docker.settings(),
            follow=None if follow is None else follow.settings(),
            controller=None if controller is None else controller.settings(),
            acme=None if self.acme is None else self.acme.settings(_shared_secret(dict(self))),
        )


def _shared_secret(tables: Mapping[str, Any]) -> bytes:
    """One that all who have this configuration share; empty: there is none."""
    controller: _ControllerTable | None = tables["controller"]
    proxy: _ProxyTable = tables["proxy"]
    token = b"" if controller is None else controller.secret()
    return token or proxy.secret or proxy.secret_file or b""


TABLES: dict[str, type[BaseModel]] = {
    "": Document,
    "listeners": _ListenerTable,
    "proxy": _ProxyTable,
    "access_log": _AccessLogTable,
    "log": _LogTable,
    "tracing": _TracingTable,
    "services": _ServiceTable,
    "certificates": _CertificateTable,
    "services.tls": _UpstreamTlsTable,
    "admin": _AdminTable,
    "providers": _ProvidersTable,
    "providers.swarm": _SwarmTable,
    "providers.docker": _DockerTable,
    "providers.controller": _FollowTable,
    "controller": _ControllerTable,
    "acme": _AcmeTable,
}
"""The model of each table by its name."""
