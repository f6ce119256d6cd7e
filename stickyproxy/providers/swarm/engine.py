"""One Docker engine: what it lists of a Swarm, and what is asked of it."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from docker import APIClient
from docker.errors import NotFound

from stickyproxy.base.errors import ProviderError
from stickyproxy.config.settings import SwarmSettings
from stickyproxy.custodian.program import contents
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.providers.engine.client import (
    ENGINE_TIMEOUT,
    ERRORS,
    connect,
    explained,
    own_container,
)
from stickyproxy.providers.swarm.certificates import named_by
from stickyproxy.providers.swarm.connectors import CompanionChange
from stickyproxy.providers.swarm.networks import Change
from stickyproxy.providers.swarm.reader import SwarmReader
from stickyproxy.providers.swarm.state import (
    Json,
    ProxyLocation,
    SwarmState,
    has_state,
    name_of,
)

log = logging.getLogger("stickyproxy")

_DESIRED = {"desired-state": ["running", "ready", "accepted"]}
"""Tasks that run, or are to."""

_FRAME_HEADER = 8
"""Bytes."""

_AT_ONCE = 200
"""Secrets that one command is asked for: what it prints is held in memory."""


@dataclass(frozen=True, slots=True)
class View:
    """The state of the Swarm, and where the proxies are that it is read for."""

    state: SwarmState
    location: ProxyLocation


class Engine:
    """One Docker engine. All methods block, and raise ProviderError."""

    def __init__(self, settings: SwarmSettings, *, forwards_here: bool) -> None:
        """``forwards_here``: this process forwards requests itself, so that the networks of its
        own container matter."""
        self._settings = settings
        self._container = own_container() if forwards_here else ""
        if forwards_here and not self._container and settings.proxy_service is None:
            log.warning(
                "swarm: this process does not seem to run in a container, and only from one can "
                "overlay networks be reached: run it in one, or publish applications with mode=host"
            )
        self._client: APIClient | None = None
        self._realm = ""
        self._last: object = None
        """The last responses; most of the time the next ones are the same, and are not parsed."""
        self._raw_tasks = b""
        self._tasks: list[Json] = []
        self._listed: frozenset[str] = frozenset()
        """Ids of ``_tasks``."""
        self._host = ""
        """The service that this process is in a task of."""
        self._raw_services = b""
        self._named: tuple[str, ...] = ()
        """Secrets and configs that labels of these name."""
        self._running: frozenset[str] = frozenset()
        """Ids of the tasks that were running when last listed, including leaving ones."""

    def look(self) -> View | None:
        """List everything; None if nothing has changed. A fixed number of requests: services,
        tasks, networks, nodes and our own container, one more while tasks are leaving, and two
        where labels name secrets or configs."""
        try:
            return self._look()
        except ERRORS as error:
            self.forget()
            raise ProviderError(self._explained(error)) from error

    def _explained(self, error: Exception) -> str:
        return explained(self._settings.endpoint, error, contained=bool(own_container()))

    def _look(self) -> View | None:
        if self._client is None:
            self._client = connect(self._settings)
            self._realm = str(self._client.inspect_swarm()["ID"])
            self._host = self._service_of(own_container())
        tasks = self._get("/tasks", _DESIRED if self._running else None)
        if tasks != self._raw_tasks:
            self._raw_tasks, self._tasks = tasks, json.loads(tasks)
            self._listed = frozenset(task["ID"] for task in self._tasks)
        services = self._get("/services")
        raw = (
            services,
            self._get_leaving(),
            self._get("/networks", {"scope": ["swarm"]}),
            self._get("/nodes"),
            *self._get_named(services),
        )
        own = self._look_at_self()
        if (tasks, raw, own) == self._last:
            return None
        self._last = tasks, raw, own
        listed, leaving, networks, nodes, secrets, configs = map(json.loads, raw)
        tasks_now = self._tasks + leaving
        state = SwarmState(self._realm, listed, tasks_now, networks, nodes, secrets, configs)
        self._running = frozenset(task["ID"] for task in state.tasks if has_state(task, "running"))
        location = self._location(listed, state.tasks, own)
        return View(state, replace(location, host=self._host))

    def _get_leaving(self) -> bytes:
        """Tasks that were running a moment ago and are no longer meant to. The engine remembers
        many more that have ended and do not matter here, so only these are requested, by id."""
        gone = sorted(self._running - self._listed)
        return self._get("/tasks", {"id": gone}) if gone else b"[]"

    def _get_named(self, services: bytes) -> tuple[bytes, bytes]:
        """The secrets and configs that labels name. A config is listed with what is in it, so only
        these are requested."""
        if services != self._raw_services:
            self._raw_services, self._named = services, named_by(json.loads(services))
        if not self._named:
            return b"[]", b"[]"
        filters = {"name": self._named}  # as prefixes: some more may come
        return self._get("/secrets", filters), self._get("/configs", filters)

    def _service_of(self, container: str) -> str:
        """The name of the service that a container of this engine is a task of; empty: of none."""
        if not container:
            return ""
        try:
            found = json.loads(self._get(f"/containers/{container}/json"))
        except NotFound:
            return ""
        return str((found["Config"].get("Labels") or {}).get("com.docker.swarm.service.name", ""))

    def _look_at_self(self) -> ProxyLocation | None:
        """Where our own container is; None if this process is in no container of this engine."""
        if not self._container:
            return None
        try:
            own = json.loads(self._get(f"/containers/{self._container}/json"))
        except NotFound:
            return None
        joined = own["NetworkSettings"]["Networks"] or {}
        return ProxyLocation(
            frozenset(str(network["NetworkID"]) for network in joined.values()),
            str((own["Config"].get("Labels") or {}).get("com.docker.swarm.service.name", "")),
            str(own["Id"]),
        )

    def _location(
        self, services: Iterable[Json], tasks: Iterable[Json], own: ProxyLocation | None
    ) -> ProxyLocation:
        named = self._settings.proxy_service
        if named is None or (own is not None and own.service == named):
            return own or ProxyLocation()
        return _location_of_service(named, services, tasks)

    def forget(self) -> None:
        """Connect again for the next request, and assume nothing about what was seen before."""
        client, self._client = self._client, None
        self._last = None
        if client is not None:
            with suppress(*ERRORS):
                client.close()

    def _get(self, path: str, filters: Mapping[str, object] | None = None) -> bytes:
        """The body of a response, not yet parsed: most of the time it is the same as before."""
        client = self._client
        assert client is not None
        response = client.get(
            f"{client.base_url}/v{client.api_version}{path}",
            params={"filters": json.dumps(filters)} if filters else None,
            timeout=ENGINE_TIMEOUT,
        )
        client._raise_for_status(response)
        return bytes(response.content)

    # --- joining networks ---

    def apply(self, change: Change, location: ProxyLocation) -> None:
        """Join and leave networks as planned."""
        client = self._client
        if client is None:
            return
        try:
            self._plug_in(client, location.container, change.connect)
            for network in change.disconnect:
                client.disconnect_container_from_network(location.container, network)
            if change.add or change.remove:
                self._update_service(client, change, location.service)
        except ERRORS as error:
            raise ProviderError(self._explained(error)) from error

    def _plug_in(self, client: APIClient, container: str, networks: Iterable[str]) -> None:
        """An overlay exists on a node only while something there is on it, and the engine does
        not let the task of a service be the first. So, if need be, a container goes ahead that
        does nothing and is removed as soon as we are in."""
        absent = [n for n in networks if not _is_plugged(client, container, n)]
        if not absent:
            return
        first, *others = absent
        helper = client.create_container(
            client.inspect_container(container)["Image"],
            entrypoint=[sys.executable, "-c", "import time; time.sleep(30)"],
            labels={"stickyproxy": "helper container: briefly brings networks to this node"},
            host_config=client.create_host_config(network_mode=first, auto_remove=True),
        )["Id"]
        try:
            for network in others:
                client.connect_container_to_network(helper, network)
            client.start(helper)
            for network in absent:
                client.connect_container_to_network(container, network)
        finally:
            with suppress(*ERRORS):
                client.remove_container(helper, force=True)

    def place(self, change: CompanionChange) -> dict[str, str]:
        """Create, update and remove connectors; returns the names of those that the engine refused,
        with what it said."""
        client = self._client
        if client is None:
            return {}
        refused: dict[str, str] = {}

        def attempt(name: str, method: str, path: str, body: Json | None = None) -> None:
            url = f"{client.base_url}/v{client.api_version}/services/{path}"
            try:
                response = client.request(method, url, json=body, timeout=ENGINE_TIMEOUT)
                client._raise_for_status(response)
            except ERRORS as error:
                refused[name] = self._explained(error)

        for spec in change.create:
            attempt(spec["Name"], "POST", "create", spec)
        for each in change.update:
            path = f"{each.service}/update?version={each.version}&registryAuthFrom=spec"
            attempt(each.spec["Name"], "POST", path, each.spec)
        for service in change.remove:
            attempt(name_of(service), "DELETE", service["ID"])
        return refused

    # --- secrets ---

    def read_secrets(self, custodian: Json, secrets: Collection[str]) -> dict[str, bytes]:
        """What is in these secrets, by their id, as far as tasks of the custodian on this node
        have them. Raises ProviderError if none could be asked."""
        client = self._client
        if client is None:
            return {}
        found: dict[str, bytes] = {}
        failure: Exception | None = None
        mark = f"com.docker.swarm.service.id={custodian['ID']}"
        try:
            tasks = client.containers(filters={"label": mark, "status": "running"})
        except ERRORS as error:
            raise ProviderError(self._explained(error)) from error
        for task in tasks:
            try:
                found |= _shown_by(client, task["Id"], sorted(secrets))
            except ERRORS as error:  # it may be about to end, and another one there
                failure = error
        if failure is not None and not found:
            raise ProviderError(self._explained(failure)) from failure
        return {each: found[each] for each in found if each in secrets}

    def _update_service(self, client: APIClient, change: Change, service: str) -> None:
        """One update for all networks. The rest of the specification is sent back unchanged, so
        that nothing unknown to this version is lost. If another client has updated the service
        meanwhile, the engine refuses, and the next listing shows what is still to be done."""
        found = client.inspect_service(service)
        response = client.post(
            f"{client.base_url}/v{client.api_version}/services/{found['ID']}/update",
            params={"version": found["Version"]["Index"], "registryAuthFrom": "spec"},
            json=change.applied_to(found["Spec"]),
            timeout=ENGINE_TIMEOUT,
        )
        client._raise_for_status(response)


def _shown_by(client: APIClient, container: str, secrets: Sequence[str]) -> dict[str, bytes]:
    """What a custodian's container has of these secrets."""
    entry = client.inspect_container(container)["Config"]["Entrypoint"] or []
    found: dict[str, bytes] = {}
    for number in range(0, len(secrets), _AT_ONCE):
        show = ["custodian", "--show", *secrets[number : number + _AT_ONCE]]
        command = client.exec_create(container, [*entry, *show], stderr=False)["Id"]
        printed = _output_of(client, command)
        if status := client.exec_inspect(command)["ExitCode"]:
            raise ValueError(f"stickyproxy custodian --show: exit status {status}")
        found |= contents(printed.decode("ascii", "replace"))
    return found


def _output_of(client: APIClient, command: str) -> bytes:
    """Start a command, and what it prints until it ends. Not by the SDK's own call, which would
    wait for ever for one that hangs."""
    response = client.post(
        f"{client.base_url}/v{client.api_version}/exec/{command}/start",
        json={"Detach": False, "Tty": False},
        timeout=ENGINE_TIMEOUT,
    )
    client._raise_for_status(response)
    return b"".join(payloads(response.content))


def payloads(stream: bytes) -> Iterator[bytes]:
    """What is in the frames of a command's output: each has a header of 8 bytes that ends in its
    length (docs.docker.com/engine/api, "Stream format")."""
    while len(stream) >= _FRAME_HEADER:
        end = _FRAME_HEADER + int.from_bytes(stream[4:_FRAME_HEADER])
        yield stream[_FRAME_HEADER:end]
        stream = stream[end:]


def _is_plugged(client: APIClient, container: str, network: str) -> bool:
    """Try to connect a container; False if the network is not on this node."""
    try:
        client.connect_container_to_network(container, network)
    except NotFound:
        return False
    return True


def _location_of_service(
    name: str, services: Iterable[Json], tasks: Iterable[Json]
) -> ProxyLocation:
    """Where the proxies run that are tasks of a service: on the networks that any of them is on,
    which differ from its specification during a rollout. If none runs, those about to start count:
    they are given their networks before they do."""
    for service in services:
        if name in (name_of(service), service.get("ID")):
            own = [task for task in tasks if task.get("ServiceID") == service["ID"]]
            running = [task for task in own if has_state(task, "running")]
            wanted = [task for task in own if task.get("DesiredState") in ("running", "ready")]
            ids = (
                str(attachment["Network"]["ID"])
                for task in running or wanted
                for attachment in task.get("NetworksAttachments") or ()
            )
            return ProxyLocation(frozenset(ids), name_of(service))
    return ProxyLocation(service=name)


def list_once(settings: SwarmSettings) -> Snapshot:
    """What the Swarm publishes now. Blocks; raises ProviderError."""
    engine = Engine(settings, forwards_here=False)
    try:
        view = engine.look()
    finally:
        engine.forget()
    assert view is not None  # the first look always sees something new
    return SwarmReader(settings.service_cluster).read(view.state, view.location).snapshot
