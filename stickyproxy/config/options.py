"""The options of a service: one validator for ``[[services]]`` and for ``com.docker.lb.*`` labels.

Values arrive as TOML types or as label text (``"true"``, ``"a.example, b.example"``, ``"60s"``) and
leave as the types of ``ServiceSpec``. Every parser, here and in ``base/values.py``, is a pure
function that raises ValueError with a sentence naming the value and the remedy; ``explain`` turns
what pydantic collected into such sentences. The options that ask for a policy come from the files
in ``routing/balancers/``.

What ends up in a header or a cookie is printable ASCII without separators by the time it leaves
this file: nothing downstream has to escape it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
)

from stickyproxy.base.addresses import bad_host, canonical_host, is_ipv6
from stickyproxy.base.text import Misspelt, shown
from stickyproxy.base.values import (
    boolean,
    cookie_path,
    duration,
    port_number,
    refuse_characters,
    text,
    timeout,
    url_path,
)
from stickyproxy.config import admitting, editing, pages, pem, watching
from stickyproxy.model.edits import NO_EDITS, Edits
from stickyproxy.model.health import DEFAULT_EJECTION, Checks, Ejection
from stickyproxy.model.service import (
    ADMIN_STATES,
    AdminState,
    Drain,
    EndpointSpec,
    OptionValue,
    PolicySpec,
    ServiceSpec,
)
from stickyproxy.model.terms import InFlight, Network, Terms
from stickyproxy.model.timeouts import Timeouts
from stickyproxy.model.tls import ClientAuth, UpstreamTls
from stickyproxy.routing.balancers import OPTIONS, make_policy
from stickyproxy.routing.policy import Option

Location = tuple[int | str, ...]

# --- words for messages ---------------------------------------------------------------------


def nearest(word: str, known: Collection[str]) -> str | None:
    """The known word that ``word`` most likely stands for, None if there is none close."""
    matches = difflib.get_close_matches(word.lower(), known, n=1)
    return matches[0] if matches else None


def unknown_key(key: str, known: Collection[str]) -> str:
    """The message for an unknown key."""
    guess = nearest(key, known)
    hint = f'did you mean "{guess}"?' if guess else f"known: {', '.join(known)}"
    return f"unknown key {shown(key)} ({hint})"


def explain(
    error: ValidationError, known: Callable[[Location], Collection[str]]
) -> Iterator[tuple[Location, str]]:
    """Every problem in ``error`` as (location, reason). ``known`` gives the keys of the table at a
    location, for the nearest one to an unknown key."""
    for detail in error.errors(include_url=False):
        location = detail["loc"]
        if detail["type"] == "extra_forbidden":
            yield location, unknown_key(str(location[-1]), known(location[:-1]))
        else:
            context = detail.get("ctx", {})
            yield location, _reason(detail["type"], detail["input"], context) or detail["msg"]


def corrections(error: ValidationError) -> Iterator[tuple[Location, str]]:
    """(location, value as it was meant) of what is only misspelt."""
    for detail in error.errors(include_url=False):
        wrong = detail.get("ctx", {}).get("error")
        if isinstance(wrong, Misspelt):
            yield detail["loc"], wrong.correction


_TYPE_ERRORS = {
    "string_type": "is not text: write it in quotes",
    "string_unicode": "is not valid Unicode: write it in ASCII",
    "bool_type": "is neither true nor false: write one of them, without quotes",
    "int_type": "is not a whole number: write it in digits, without quotes",
    "tuple_type": "is not a list: write it in [brackets]",
    "model_type": "is not a table: write its keys as key = value",
}


def _reason(kind: str, value: object, context: Mapping[str, object]) -> str | None:
    """Our wording for a kind of pydantic error; None where we have none."""
    match kind, value:
        case "value_error", _:
            return str(context["error"])
        case "missing", _:
            return "is required"
        case "tuple_type", dict():
            return "is one table where a list belongs: tables of a list have [[double brackets]]"
        case "model_type", list():
            return "is a list where one table belongs: a single table has [single brackets]"
        case "literal_error", _:
            expected = str(context["expected"]).replace("'", '"')
            return f"{shown(value)} is not known: write {expected}"
        case "greater_than_equal", _:
            return f"{shown(value)} is too small: write at least {context['ge']}"
        case "less_than_equal", _:
            return f"{shown(value)} is too large: write at most {context['le']}"
        case _:
            return f"{shown(value)} {_TYPE_ERRORS[kind]}" if kind in _TYPE_ERRORS else None


# --- lists from labels ----------------------------------------------------------------------


def _split_by(separator: str) -> BeforeValidator:
    """Lists may come as one label: ``"a, b"``. Empty items are dropped: Interlock's own examples
    end in a separator. Anything but text passes unchanged."""

    def split(value: object) -> object:
        if not isinstance(value, str):
            return value
        return [item.strip() for item in value.split(separator) if item.strip()]

    return BeforeValidator(split)


# --- names ----------------------------------------------------------------------------------

_AUTHORITY = re.compile(  # the path part matches the rest, to be shown in a message
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)?(?P<host>\[[^\]]*\]|[^][/?#:]*)"
    r"(?P<port>:[0-9]*)?(?P<path>[/?#].*)?",
    re.DOTALL,
)


def host_name(text: str) -> str:
    """A host as the Host header names it, in canonical form: lower case, no trailing dot, IPv6 in
    brackets; ``*.example.com`` stands for every name below. Raises ValueError."""
    if not text:
        raise ValueError('is empty: write a host name such as "shop.example.com"')
    if text == "*":
        raise ValueError('"*" is not a host name: set default_backend to answer for any host')
    if is_ipv6(text):
        return canonical_host(f"[{text}]")
    parts = _AUTHORITY.fullmatch(text)
    if parts is None:
        raise bad_host(text)
    surplus = [shown(part) for part in parts.group("scheme", "port", "path") if part]
    if surplus:
        message = f"{shown(text)} is more than a host name: remove {' and '.join(surplus)}"
        raise Misspelt(message, parts["host"].lower())
    if text.startswith("*."):
        return "*." + canonical_host(text[2:], as_written=text)
    return canonical_host(text)


def _check_host(text: str) -> str:
    """The host that checks ask for. Raises ValueError."""
    if text.startswith("*."):
        raise ValueError(f"{shown(text)} is no single host: write one of those that it stands for")
    return host_name(text)


# --- paths and URLs -------------------------------------------------------------------------


def _context_root(value: object) -> str:
    """A path prefix without trailing slashes, except for ``/``. Raises ValueError."""
    return cookie_path(value).rstrip("/") or "/"  # pins carry it as their Path


def _redirect(value: object) -> tuple[str, str]:
    """(source host, destination URL without a trailing slash) of ``"src,dst"`` or ``[src, dst]``.
    Raises ValueError."""
    pair = value.split(",", 1) if isinstance(value, str) else value
    match pair:
        case [str(source), str(destination)]:
            return _redirect_source(source.strip()), _redirect_destination(destination.strip())
        case _:
            raise ValueError(
                f'{shown(value)} is not a redirect: write it like "old.example,https://new.example"'
            )


def _redirect_source(text: str) -> str:
    """A host; Interlock's own examples write it as a URL, so a scheme and final slash may be there.
    Raises ValueError."""
    return host_name(re.sub("^https?://", "", text, flags=re.IGNORECASE).removesuffix("/"))


def _redirect_destination(text: str) -> str:
    """An absolute URL that a request target can be appended to. Raises ValueError."""
    parts = _AUTHORITY.fullmatch(text)
    if parts is None or (parts["scheme"] or "").lower() not in ("http://", "https://"):
        raise ValueError(
            f'{shown(text)} is not a URL to redirect to: write it like "https://new.example"'
        )
    canonical_host(parts["host"])
    if parts["port"]:
        port_number(parts["port"][1:])
    refuse_characters(text, "?#", "a destination, to which the request's path is appended,")
    return text.removesuffix("/")


# --- TLS to endpoints -------------------------------------------------------------------------


def server_name(value: object) -> str:
    """One host or IP address, without brackets, that a certificate can be for. Raises
    ValueError."""
    name = host_name(text(value).strip())
    if name.startswith("*."):
        raise ValueError(f"{shown(value)} is a wildcard: write one name that certificates have")
    return name.strip("[]")


# --- TLS from clients -------------------------------------------------------------------------

_HSTS_DEFAULT = "max-age=63072000"  # two years, as Mozilla has it
_HSTS = re.compile(r"max-age=[0-9]{1,10}(; *(includeSubDomains|preload))*", re.IGNORECASE)


def _hsts(value: object) -> str | None:
    """The value of Strict-Transport-Security (RFC 6797 section 6.1); None: there is none. Raises
    ValueError."""
    try:
        return _HSTS_DEFAULT if boolean(value) else None
    except ValueError:
        written = text(value).strip()
    if _HSTS.fullmatch(written):
        return written
    raise ValueError(
        f'{shown(written)} is not known: write true, or "max-age=63072000; includeSubDomains"'
    )


def _client_certificates(value: object) -> str:
    """Whether clients must have one. Raises ValueError."""
    word = text(value).strip().lower()
    if word in _CLIENT_CERTIFICATES:
        return word
    message = f'{shown(value)} is not known: write "required" or "optional"'
    guess = nearest(word, _CLIENT_CERTIFICATES)
    raise Misspelt(message, guess) if guess else ValueError(message)


_CLIENT_CERTIFICATES = ("required", "optional")
ClientCertificates = Annotated[
    Literal["required", "optional"], PlainValidator(_client_certificates)
]


# --- draining ---------------------------------------------------------------------------------

_DRAINS: tuple[str, ...] = get_args(Drain)


def _drain(value: object) -> str:
    """What stopping replicas still get. Raises ValueError."""
    word = text(value).strip().lower()
    if word in _DRAINS:
        return word
    message = f'{shown(value)} is not known: write "none", "safe" or "sticky"'
    guess = nearest(word, _DRAINS)
    raise Misspelt(message, guess) if guess else ValueError(message)


def _admin_state(value: object) -> str:
    """What an operator wants of all endpoints. Raises ValueError."""
    word = text(value).strip().lower()
    if word in ADMIN_STATES:
        return word
    message = f'{shown(value)} is not known: write "ready", "drain" or "maintenance"'
    guess = nearest(word, ADMIN_STATES)
    raise Misspelt(message, guess) if guess else ValueError(message)


# --- the options ----------------------------------------------------------------------------

Boolean = Annotated[bool, PlainValidator(boolean)]
Port = Annotated[int, PlainValidator(port_number)]
Timeout = Annotated[float, PlainValidator(timeout)]
HostName = Annotated[str, AfterValidator(host_name)]
ServerName = Annotated[str, PlainValidator(server_name)]
UrlPath = Annotated[str, PlainValidator(url_path)]
ContextRoot = Annotated[str, PlainValidator(_context_root)]
Redirect = Annotated[tuple[str, str], PlainValidator(_redirect)]
Hosts = Annotated[tuple[HostName, ...], _split_by(",")]
Networks = Annotated[
    tuple[Annotated[Network, PlainValidator(admitting.network)], ...], _split_by(",")
]
Users = Annotated[
    tuple[Annotated[tuple[str, str], PlainValidator(admitting.user)], ...], _split_by("\n")
]
FieldLines = Annotated[
    tuple[Annotated[tuple[str, str], PlainValidator(editing.field_line)], ...], _split_by("\n")
]
FieldNames = Annotated[
    tuple[Annotated[str, PlainValidator(editing.field_name)], ...], _split_by(",")
]
CheckCount = Annotated[int, PlainValidator(partial(watching.count, 1, 100))]

_OF_CHECKS = ("host", "interval", "timeout", "rise", "fall", "status")
"""What there is to say of checks besides their path."""


_OF_REQUESTS = frozenset(
    {
        *("default_backend", "context_root", "context_root_rewrite"),
        *("websocket_endpoints", "redirects", "hsts", "acme", "client_ca", "client_certificates"),
        *("ssl_cert", "ssl_key", "ssl_acme", "ssl_backend", "tls"),
        *("eject_after_5xx", "healthcheck_path"),
        *(
            "allow_from",
            "deny_from",
            "max_body",
            "rate_limit",
            "basic_auth",
            "max_in_flight",
            "error_page",
            "compression",
        ),
        *("request_headers_set", "request_headers_remove"),
        *("response_headers_set", "response_headers_remove"),
        *(name for name, its in OPTIONS.items() if not (its.by_address or its.adjusts)),
    }
)
"""Options that say what is to be done with requests or their TLS: nothing, if all of that is left
to the endpoint."""


class _Place(BaseModel):
    """Where a service is published."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ssl_passthrough: Boolean = False
    default_backend: Boolean = False
    hosts: Hosts = Field((), validate_default=True)
    port: Port | None = None
    context_root: ContextRoot = "/"
    context_root_rewrite: Boolean = False
    share: Boolean = False

    @field_validator("*")
    @classmethod
    def _is_not_passed_through(cls, value: object, info: ValidationInfo) -> object:
        asked = value not in (False, None, "", "/", ())
        if asked and info.field_name in _OF_REQUESTS and info.data.get("ssl_passthrough"):
            raise ValueError(
                "cannot be combined with ssl_passthrough, which leaves TLS, and all requests in "
                "it, to client and endpoint: remove one of the two"
            )
        return value

    @field_validator("hosts")
    @classmethod
    def _some_host(cls, hosts: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not hosts and info.data.get("default_backend") is False:
            raise ValueError(
                "is required: name at least one host, or set default_backend to answer for any"
            )
        return tuple(dict.fromkeys(hosts))


def _adjusting(option: Option) -> AfterValidator:
    """Rejects an option without the one that it adjusts."""
    adjusted = option.adjusts

    def adjusts_something(value: OptionValue, info: ValidationInfo) -> OptionValue:
        if adjusted in info.data and info.data[adjusted] is OPTIONS[adjusted].off:
            raise ValueError(f"has no meaning without {adjusted}: set that too, or remove this key")
        return value

    return AfterValidator(adjusts_something)


def _asking(name: str, option: Option) -> AfterValidator:
    """Rejects an option beside another one that asks for a policy too."""
    excluded = [
        other
        for other, its in OPTIONS.items()
        if not (its.adjusts or other in option.beside or name in its.beside)
    ]

    def is_alone(value: OptionValue, info: ValidationInfo) -> OptionValue:
        for other in excluded:
            off = OPTIONS[other].off
            if value is not option.off and info.data.get(other, off) is not off:
                raise ValueError(f"cannot be combined with {other}: remove one of the two")
        return value

    return AfterValidator(is_alone)


def _field_of(name: str, option: Option) -> Any:
    """(type, default) of an option that asks for a policy, or adjusts one, as pydantic has it."""
    check = _adjusting(option) if option.adjusts else _asking(name, option)
    return Annotated[option.type | None, PlainValidator(option.parse), check], option.off


if TYPE_CHECKING:  # mypy does not accept a class that is made at run time
    _PlaceAndPolicy = _Place
else:
    _PlaceAndPolicy = create_model(
        "_PlaceAndPolicy",
        __base__=_Place,
        **{name: _field_of(name, option) for name, option in OPTIONS.items()},
    )


class ServiceOptions(_PlaceAndPolicy):
    """How a service is published. The names are those of ``com.docker.lb.*`` labels.

    ``model_validate`` raises pydantic's ValidationError with every problem found; ``explain`` puts
    it into words. Checks across keys are field validators that look at keys declared earlier
    (``info.data``, which lacks those that failed), not model validators: so they are reported along
    with all other problems. Hence the order of the keys counts: first those of ``_Place``, then
    those of the policies by their rank, then those below.
    """

    websocket_endpoints: Annotated[tuple[UrlPath, ...], _split_by(",")] | None = None
    redirects: Annotated[tuple[Redirect, ...], _split_by(";")] = ()
    drain: Annotated[Drain, PlainValidator(_drain)] = "none"
    admin_state: Annotated[AdminState, PlainValidator(_admin_state)] = "ready"
    ssl_only: Boolean = False
    hsts: Annotated[str | None, PlainValidator(_hsts)] = None
    client_ca: Annotated[pem.PemFile, PlainValidator(pem.ca_text)] | None = None
    client_certificates: ClientCertificates | None = None
    acme: Boolean = False
    connect_timeout: Timeout | None = None
    response_timeout: Timeout | None = None
    response_idle_timeout: Timeout | None = None
    client_timeout: Timeout | None = None
    upgrade_idle_timeout: Timeout | None = None
    ssl_backend: Boolean = False
    ssl_backend_server_name: ServerName | None = None
    ssl_backend_tls_verify: Boolean = False
    ssl_backend_ca: Annotated[pem.PemFile, PlainValidator(pem.ca_text)] | None = None
    eject_after_5xx: Annotated[int, PlainValidator(partial(watching.count, 0, 1000))] = 0
    max_ejected: Annotated[str, PlainValidator(watching.percentage)] = "50%"
    healthcheck_path: Annotated[str, PlainValidator(watching.check_path)] | None = None
    healthcheck_host: Annotated[str, AfterValidator(_check_host)] | None = None
    healthcheck_interval: Annotated[float, PlainValidator(watching.check_interval)] = 5.0
    healthcheck_timeout: Timeout = 3.0
    healthcheck_rise: CheckCount = 2
    healthcheck_fall: CheckCount = 3
    healthcheck_status: Annotated[str, PlainValidator(watching.statuses)] = "200-399"
    slow_start: Annotated[float, PlainValidator(duration)] = 0.0
    allow_from: Networks = ()
    deny_from: Networks = ()
    max_body: Annotated[int, PlainValidator(admitting.size)] | None = None
    rate_limit: Annotated[str, PlainValidator(admitting.rate)] | None = None
    rate_limit_burst: Annotated[int, PlainValidator(partial(watching.count, 1, 10**6))] | None = (
        None
    )

    basic_auth: Users = ()
    max_in_flight: Annotated[int, PlainValidator(partial(watching.count, 1, 10**6))] | None = None
    max_queue: Annotated[int, PlainValidator(partial(watching.count, 0, 10**6))] = 100
    queue_timeout: Timeout = 5.0
    error_page: Annotated[pages.PageFile, PlainValidator(pages.page_text)] | None = None
    request_headers_set: FieldLines = ()
    request_headers_remove: FieldNames = ()
    response_headers_set: FieldLines = ()
    response_headers_remove: FieldNames = ()
    compression: Annotated[tuple[str, ...], PlainValidator(editing.compression)] = ()

    @field_validator("ssl_backend_server_name", "ssl_backend_tls_verify")
    @classmethod
    def _needs_ssl_backend(cls, value: object, info: ValidationInfo) -> object:
        if value and info.data.get("ssl_backend") is False:
            raise ValueError(
                "has no meaning without ssl_backend: set that to true, or remove this key"
            )
        return value

    @field_validator("ssl_backend_tls_verify")
    @classmethod
    def _some_name(cls, value: bool, info: ValidationInfo) -> bool:
        hosts = info.data.get("hosts")
        named = info.data.get("ssl_backend_server_name", "unknown")
        if value and not named and hosts is not None and not _name_among(hosts):
            raise ValueError(
                "needs a name that the certificates of endpoints are for, and no host is one: set "
                "ssl_backend_server_name"
            )
        return value

    @field_validator("ssl_backend_ca")
    @classmethod
    def _needs_verification(
        cls, value: pem.PemFile | None, info: ValidationInfo
    ) -> pem.PemFile | None:
        if value is not None and info.data.get("ssl_backend_tls_verify") is False:
            raise ValueError(
                "has no meaning without ssl_backend_tls_verify: set that to true, or remove this "
                "key"
            )
        return value

    @field_validator("client_certificates")
    @classmethod
    def _needs_client_ca(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("client_ca", "invalid") is None:
            raise ValueError("has no meaning without client_ca: set that too, or remove this key")
        return value

    def client_auth(self) -> ClientAuth | None:
        """How clients are asked for a certificate, if they are."""
        if self.client_ca is None:
            return None
        return ClientAuth(self.client_ca.text, self.client_certificates != "optional")

    @field_validator(*(f"healthcheck_{each}" for each in _OF_CHECKS))
    @classmethod
    def _needs_healthcheck_path(cls, value: object, info: ValidationInfo) -> object:
        if "healthcheck_path" in info.data and info.data["healthcheck_path"] is None:
            raise ValueError(
                "has no meaning without healthcheck_path: set that too, or remove this key"
            )
        return value

    @field_validator("rate_limit_burst")
    @classmethod
    def _needs_rate_limit(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("rate_limit", "invalid") is None:
            raise ValueError("has no meaning without rate_limit: set that too, or remove this key")
        return value

    @field_validator("max_queue", "queue_timeout")
    @classmethod
    def _needs_max_in_flight(cls, value: object, info: ValidationInfo) -> object:
        if "max_in_flight" in info.data and info.data["max_in_flight"] is None:
            raise ValueError(
                "has no meaning without max_in_flight: set that too, or remove this key"
            )
        return value

    def policy(self) -> PolicySpec | None:
        """The policy that they ask for, if any."""
        values = {name: getattr(self, name) for name in OPTIONS}
        asked = {name: value for name, value in values.items() if value is not OPTIONS[name].off}
        return make_policy({"context_root": self.context_root, **asked})

    def timeouts(self) -> Timeouts | None:
        """Those that the service has of its own, if any."""
        own = Timeouts(
            connect=self.connect_timeout,
            response=self.response_timeout,
            response_idle=self.response_idle_timeout,
            client=self.client_timeout,
            upgrade_idle=self.upgrade_idle_timeout,
        )
        return None if own == Timeouts() else own

    def upstream_tls(self) -> UpstreamTls | None:
        """TLS to endpoints, if there is to be any. An endpoint that a provider finds has an address
        that is in no certificate, so they are asked for the service by its host."""
        if not self.ssl_backend:
            return None
        name = self.ssl_backend_server_name or _name_among(self.hosts)
        ca = self.ssl_backend_ca.text if self.ssl_backend_ca else ""
        return UpstreamTls(verify=self.ssl_backend_tls_verify, ca=ca, server_name=name)

    def ejection(self) -> Ejection | None:
        """None: as by default."""
        own = Ejection(self.eject_after_5xx, watching.share(self.max_ejected))
        return None if own == DEFAULT_EJECTION else own

    def checks(self) -> Checks | None:
        """How its endpoints are checked, if they are. The host is one that the service has."""
        if self.healthcheck_path is None:
            return None
        named = (host for host in self.hosts if not host.startswith("*."))
        return Checks(
            path=self.healthcheck_path,
            host=self.healthcheck_host or next(named, ""),
            interval=self.healthcheck_interval,
            timeout=self.healthcheck_timeout,
            rise=self.healthcheck_rise,
            fall=self.healthcheck_fall,
            status=watching.ranges(self.healthcheck_status),
        )

    def terms(self) -> Terms | None:
        """Which requests are taken, if not all of them."""
        written = self.rate_limit
        own = Terms(
            allow_from=self.allow_from,
            deny_from=self.deny_from,
            max_body=self.max_body,
            in_flight=self._in_flight(),
            users=self.basic_auth,
            rate=None if written is None else admitting.rate_of(written, self.rate_limit_burst),
        )
        return None if own == Terms() else own

    def _in_flight(self) -> InFlight | None:
        if self.max_in_flight is None:
            return None
        return InFlight(self.max_in_flight, self.max_queue, self.queue_timeout)

    def edits(self) -> Edits | None:
        """What is done with header fields, if anything."""
        own = Edits(
            request_set=self.request_headers_set,
            request_remove=self.request_headers_remove,
            response_set=self.response_headers_set,
            response_remove=self.response_headers_remove,
        )
        return None if own == NO_EDITS else own

    def spec(self, name: str, endpoints: Iterable[EndpointSpec]) -> ServiceSpec:
        """The service ``name`` with these options and these endpoints."""
        return ServiceSpec(
            name=name,
            hosts=self.hosts,
            endpoints=tuple(endpoints),
            context_root=self.context_root,
            context_root_rewrite=self.context_root_rewrite,
            policy=self.policy(),
            websocket_endpoints=self.websocket_endpoints,
            redirects=self.redirects,
            share=self.share,
            default_backend=self.default_backend,
            drain=self.drain,
            admin_state=self.admin_state,
            timeouts=self.timeouts(),
            ejection=self.ejection(),
            checks=self.checks(),
            slow_start=self.slow_start,
            ssl_passthrough=self.ssl_passthrough,
            acme=self.acme,
            ssl_only=self.ssl_only,
            hsts=self.hsts or "",
            client_auth=self.client_auth(),
            terms=self.terms(),
            edits=self.edits(),
            error_page="" if self.error_page is None else self.error_page.text,
            compression=self.compression,
            tls=self.upstream_tls(),
        )


def _name_among(hosts: Iterable[str]) -> str:
    """The first host that is one, and not a wildcard; empty if there is none."""
    return next((host.strip("[]") for host in hosts if not host.startswith("*.")), "")


def hashes_addresses(spec: ServiceSpec) -> list[str]:
    """The options of a service by which client addresses decide where it is reached."""
    if spec.policy is None:
        return ["ssl_passthrough"] if spec.ssl_passthrough else []
    asked = spec.policy.options()
    return [name for name in asked if OPTIONS[name].by_address]
