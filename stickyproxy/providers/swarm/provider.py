"""The Swarm provider: all of Docker's I/O.

    Engine         one Docker engine: what it lists, and what is asked of it
    EventWatch     a thread that calls back for each event
    SwarmProvider  events and the clock wake it; it lists, reads, publishes

Events only wake, because Docker has none for tasks: the listing is the truth. The docker SDK
blocks, so it never runs on the event loop: listings have one thread, the event stream another.
"""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import random
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from docker import APIClient
from docker.errors import DockerException, NotFound
from docker.tls import TLSConfig
from requests.adapters import HTTPAdapter
from requests.exceptions import RequestException

from stickyproxy.base.errors import ProviderError
from stickyproxy.config.load import SwarmSettings
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.providers.swarm.connectors import ConnectorChange, ConnectorPlanner
from stickyproxy.providers.swarm.networks import Change, NetworkPlanner
from stickyproxy.providers.swarm.reader import (
    Json,
    Listing,
    Reading,
    Standpoint,
    SwarmReader,
    has_state,
    name_of,
)

log = logging.getLogger("stickyproxy")

T = TypeVar("T")

FAST_POLL = 0.25
"""Seconds between listings while a published service converges."""
FAST_POLL_LIMIT = 30.0
"""Seconds without any change after which a service that never converges is no longer watched
closely."""
SETTLE = 2.0
"""Seconds of close watching after an event: what it announces is listed a little later."""
LISTING_SHARE = 0.1
"""Part of a core that listings may take while polling fast."""
ENGINE_TIMEOUT = 10.0
"""Seconds an answer of the engine may take."""
BACKOFF = (0.5, 10.0)
"""Seconds before the engine is asked again after a failure: the first time, and at most."""

_ERRORS = (DockerException, RequestException, OSError, ValueError)


# --- the engine -----------------------------------------------------------------------------

_DESIRED = {"desired-state": ["running", "ready", "accepted"]}
"""Tasks that run, or are to."""


@dataclass(frozen=True, slots=True)
class View:
    """A listing and whose eyes it is for."""

    listing: Listing
    standpoint: Standpoint


class Engine:
    """One Docker engine. Everything here blocks, and raises ProviderError."""

    def __init__(self, settings: SwarmSettings, *, forwards_here: bool) -> None:
        """``forwards_here``: this process forwards requests itself, so that the networks of its
        own container count."""
        self._settings = settings
        self._container = own_container() if forwards_here else ""
        if forwards_here and not self._container and settings.proxy_service is None:
            log.warning(
                "swarm: this process seems to run in no container, and only from there overlay "
                "networks are reached: run it in one, or publish applications with mode=host"
            )
        self._client: APIClient | None = None
        self._realm = ""
        self._last: object = None
        """The last answers; most of the time the next ones are the same, and are not parsed."""
        self._raw_tasks = b""
        self._tasks: list[Json] = []
        self._listed: frozenset[str] = frozenset()
        """Ids of ``_tasks``."""
        self._running: frozenset[str] = frozenset()
        """Ids of the tasks that ran when last listed, those that were leaving included."""

    def look(self) -> View | None:
        """List everything; None if nothing has changed. A fixed number of requests: services,
        tasks, networks, nodes and the own container, and one more while tasks are leaving."""
        try:
            return self._look()
        except _ERRORS as error:
            self.forget()
            raise ProviderError(_explained(self._settings.endpoint, error)) from error

    def _look(self) -> View | None:
        if self._client is None:
            self._client = _connect(self._settings)
            self._realm = str(self._client.inspect_swarm()["ID"])
        tasks = self._get("/tasks", _DESIRED if self._running else None)
        if tasks != self._raw_tasks:
            self._raw_tasks, self._tasks = tasks, json.loads(tasks)
            self._listed = frozenset(task["ID"] for task in self._tasks)
        raw = (
            self._get("/services"),
            self._get_leaving(),
            self._get("/networks", {"scope": ["swarm"]}),
            self._get("/nodes"),
        )
        own = self._look_at_self()
        if (tasks, raw, own) == self._last:
            return None
        self._last = tasks, raw, own
        services, leaving, networks, nodes = map(json.loads, raw)
        listing = Listing(self._realm, services, self._tasks + leaving, networks, nodes)
        self._running = frozenset(
            task["ID"] for task in listing.tasks if has_state(task, "running")
        )
        return View(listing, self._standpoint(services, listing.tasks, own))

    def _get_leaving(self) -> bytes:
        """Tasks that ran just now and are not to run any longer. The engine remembers many more
        that do not run, of no use to us: hence only these are asked for, and only by id."""
        gone = sorted(self._running - self._listed)
        return self._get("/tasks", {"id": gone}) if gone else b"[]"

    def _look_at_self(self) -> Standpoint | None:
        """Where the own container stands; None if this process runs in none of this engine."""
        if not self._container:
            return None
        try:
            own = json.loads(self._get(f"/containers/{self._container}/json"))
        except NotFound:
            return None
        joined = own["NetworkSettings"]["Networks"] or {}
        return Standpoint(
            frozenset(str(network["NetworkID"]) for network in joined.values()),
            str((own["Config"].get("Labels") or {}).get("com.docker.swarm.service.name", "")),
            str(own["Id"]),
        )

    def _standpoint(
        self, services: Iterable[Json], tasks: Iterable[Json], own: Standpoint | None
    ) -> Standpoint:
        named = self._settings.proxy_service
        if named is None or (own is not None and own.service == named):
            return own or Standpoint()
        return _standpoint_of_service(named, services, tasks)

    def forget(self) -> None:
        """Connect anew for the next request, and take nothing for known."""
        client, self._client = self._client, None
        self._last = None
        if client is not None:
            with suppress(*_ERRORS):
                client.close()

    def _get(self, path: str, filters: Mapping[str, object] | None = None) -> bytes:
        """The body of an answer, not yet read: most of the time it is the same as before."""
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

    def apply(self, change: Change, standpoint: Standpoint) -> None:
        """Join and leave networks as planned."""
        client = self._client
        if client is None:
            return
        try:
            self._plug_in(client, standpoint.container, change.connect)
            for network in change.disconnect:
                client.disconnect_container_from_network(standpoint.container, network)
            if change.add or change.remove:
                self._update_service(client, change, standpoint.service)
        except _ERRORS as error:
            raise ProviderError(_explained(self._settings.endpoint, error)) from error

    def _plug_in(self, client: APIClient, container: str, networks: Iterable[str]) -> None:
        """An overlay exists on a node only while something there is on it, and the engine does
        not let the task of a service be the first. So, if need be, a container goes ahead that
        does nothing and is removed as soon as we are in."""
        absent = [n for n in networks if not _is_plugged(client, container, n)]
        if not absent:
            return
        first, *others = absent
        usher = client.create_container(
            client.inspect_container(container)["Image"],
            entrypoint=[sys.executable, "-c", "import time; time.sleep(30)"],
            labels={"stickyproxy": "makes networks appear on this node, for a moment"},
            host_config=client.create_host_config(network_mode=first, auto_remove=True),
        )["Id"]
        try:
            for network in others:
                client.connect_container_to_network(usher, network)
            client.start(usher)
            for network in absent:
                client.connect_container_to_network(container, network)
        finally:
            with suppress(*_ERRORS):
                client.remove_container(usher, force=True)

    def place(self, change: ConnectorChange) -> dict[str, str]:
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
            except _ERRORS as error:
                refused[name] = _explained(self._settings.endpoint, error)

        for spec in change.create:
            attempt(spec["Name"], "POST", "create", spec)
        for each in change.update:
            path = f"{each.service}/update?version={each.version}&registryAuthFrom=previous-spec"
            attempt(each.spec["Name"], "POST", path, each.spec)
        for service in change.remove:
            attempt(name_of(service), "DELETE", service["ID"])
        return refused

    def _update_service(self, client: APIClient, change: Change, service: str) -> None:
        """One update for all networks. The specification goes back as it came but for them, so
        nothing that this version does not know is lost. If somebody else has updated the service
        meanwhile, the engine refuses, and the next listing shows what is still to be done."""
        found = client.inspect_service(service)
        response = client.post(
            f"{client.base_url}/v{client.api_version}/services/{found['ID']}/update",
            params={"version": found["Version"]["Index"], "registryAuthFrom": "spec"},
            json=change.applied_to(found["Spec"]),
            timeout=ENGINE_TIMEOUT,
        )
        client._raise_for_status(response)


def _is_plugged(client: APIClient, container: str, network: str) -> bool:
    """Try to connect a container; False if the network is not on this node."""
    try:
        client.connect_container_to_network(container, network)
    except NotFound:
        return False
    return True


def _standpoint_of_service(
    name: str, services: Iterable[Json], tasks: Iterable[Json]
) -> Standpoint:
    """Where the proxies stand that are tasks of a service: on the networks that any of them is on,
    which are not those of its specification while that is being rolled out. When none runs, those
    count that are on their way: they are given their networks before they start."""
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
            return Standpoint(frozenset(ids), name_of(service))
    return Standpoint(service=name)


def _connect(settings: SwarmSettings) -> APIClient:
    """A client that speaks the engine's own version of the API."""
    if settings.endpoint.startswith("unix://"):
        # First by ourselves: the SDK leaves a socket open that could not be connected.
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(ENGINE_TIMEOUT)
            probe.connect(settings.endpoint.removeprefix("unix://"))
    client = _client(settings, "1.30")
    try:
        version = client.version(api_version=False)["ApiVersion"]
    finally:
        client.close()
    return _client(settings, str(version))


def _client(settings: SwarmSettings, version: str) -> APIClient:
    """With a fixed version, making a client asks nothing yet, so that it can be set up first:
    CA_BUNDLE variables of the environment would take the place of ``tls_ca``, and proxies stand
    between us and the engine."""
    tls: TLSConfig | bool = False
    if settings.tls_ca:
        pair = (settings.tls_cert, settings.tls_key) if settings.tls_cert else None
        tls = TLSConfig(client_cert=pair, ca_cert=settings.tls_ca, verify=True)
    client = APIClient(
        base_url=settings.endpoint, version=version, timeout=ENGINE_TIMEOUT, tls=tls, num_pools=2
    )
    client.trust_env = False
    if settings.endpoint.startswith("tcp://"):
        for scheme in ("http://", "https://"):
            client.mount(scheme, _Connections(settings))
    return client


class _Connections(HTTPAdapter):
    """Connections that end when the machine at the other end is gone without a word: the stream of
    events is silent for hours, and would wait for ever."""

    def __init__(self, settings: SwarmSettings) -> None:
        self._options: dict[str, Any] = {"socket_options": _KEEPALIVE}
        if settings.tls_ca:
            self._options["ssl_context"] = _tls_context(settings)
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Make the pool that connections come from."""
        super().init_poolmanager(*args, **(options | self._options))


def _tls_context(settings: SwarmSettings) -> ssl.SSLContext:
    """As the SDK's own, without the strictness of Python 3.13 and urllib3, which refuses a CA made
    as Docker's guide says (docs.docker.com/engine/security/protect-access): it has no keyUsage."""
    context = ssl.create_default_context(cafile=settings.tls_ca)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if settings.tls_cert:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    return context


_KEEPALIVE = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    # After 15 seconds of silence it is asked every 5; three times without an answer is the end.
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
]


def _explained(endpoint: str, error: Exception) -> str:
    """What went wrong and what would mend it, in one line."""
    text = " ".join(str(error).split())
    path = endpoint.removeprefix("unix://")
    if "not a swarm manager" in text or "not part of a swarm" in text:
        return (
            f"the engine at {endpoint} is no Swarm manager: run the proxy on one, or let it follow "
            "a controller ([providers.controller])"
        )
    if isinstance(error, FileNotFoundError) or "FileNotFoundError" in text:
        return (
            f"there is no engine at {endpoint}: start it, or mount its socket "
            f"(--mount type=bind,source={path},target={path})"
        )
    if isinstance(error, PermissionError):
        return f"the engine at {endpoint} may not be used by this user: add it to group docker"
    if "HTTP request to an HTTPS server" in text:
        return f"the engine at {endpoint} wants TLS: set tls_ca, tls_cert and tls_key"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        found = re.search(r"certificate verify failed: ([^(]*)", text)
        why = f": {found[1].strip()}" if found else ""
        return f"the engine at {endpoint} has a certificate that tls_ca does not vouch for{why}"
    if "RemoteDisconnected" in text or "CERTIFICATE_REQUIRED" in text.upper():
        return f"the engine at {endpoint} hangs up: it may want a certificate (tls_cert, tls_key)"
    if "Connection refused" in text:
        return f"the engine at {endpoint} does not answer: connection refused"
    return f"the engine at {endpoint}: {text[:300]}"


_CONTAINER = re.compile(r"/containers/([0-9a-f]{64})/hostname /etc/hostname ")


def own_container() -> str:
    """Id of the container this process runs in, by the file Docker mounts into each; empty: in
    none."""
    try:
        found = _CONTAINER.search(Path("/proc/self/mountinfo").read_text())
    except OSError:
        return ""
    return found[1] if found else ""


def list_once(settings: SwarmSettings) -> Snapshot:
    """What the Swarm publishes now. Blocks; raises ProviderError."""
    engine = Engine(settings, forwards_here=False)
    try:
        view = engine.look()
    finally:
        engine.forget()
    assert view is not None  # the first look always sees something new
    return SwarmReader(settings.service_cluster).read(view.listing, view.standpoint).snapshot


# --- threads --------------------------------------------------------------------------------


class Worker:
    """One daemon thread that runs blocking calls in turn: unlike an executor's, it does not keep
    the process from ending while a call hangs."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def run(self, call: Callable[[], T]) -> T:
        """The result of ``call``, run in the thread."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def work() -> None:
            result, failure = None, None
            try:
                result = call()
            except Exception as error:
                failure = error
            with suppress(RuntimeError):  # the loop is closed: nobody waits any longer
                loop.call_soon_threadsafe(settle, result, failure)

        self._calls.put(work)
        return await future

    def stop(self) -> None:
        """End the thread after the call under way."""
        self._calls.put(None)

    def _run(self) -> None:
        while (work := self._calls.get()) is not None:
            work()


# Container events come from the local engine only, but at once: that is where tasks begin and end.
_EVENTS = {
    "type": ["service", "node", "network", "container"],
    "event": ["create", "update", "remove", "destroy", "start", "die", "kill", "health_status"],
}


class EventWatch:
    """Calls ``wake`` from its own thread for each event, and whenever it could connect."""

    def __init__(self, settings: SwarmSettings, wake: Callable[[], None]) -> None:
        self._settings = settings
        self._wake = wake
        self._stopping = threading.Event()
        self._stream: Any = None
        self._thread = threading.Thread(target=self._run, name="swarm events", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the stream and the thread."""
        self._stopping.set()
        self._end_stream()

    def _end_stream(self) -> None:
        with suppress(Exception):  # the SDK reaches for the socket, whatever state it is in
            self._stream.close()

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                with closing(_connect(self._settings)) as client:
                    self._stream = client.events(filters=_EVENTS)
                    failures = 0
                    self._wake()
                    while not self._stopping.is_set() and next(self._stream, None) is not None:
                        self._wake()
                    self._end_stream()  # nobody else does if stop() came before it was there
            except _ERRORS as error:
                log.debug("event stream: %s", error)
            failures += 1
            self._stopping.wait(backoff(failures))


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row: doubling, with jitter, so that the proxies
    of a cluster do not all come back at one moment."""
    first, most = BACKOFF
    longest = float(min(most, first * 2 ** min(failures - 1, 16)))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  # not secret


# --- the provider ---------------------------------------------------------------------------


class SwarmProvider:
    """Publishes the labelled services of a Swarm, and keeps in step with it."""

    name = "swarm"

    def __init__(
        self,
        settings: SwarmSettings,
        publish: Callable[[Snapshot], None],
        *,
        forwards_here: bool = True,
    ) -> None:
        self.ready = asyncio.Event()
        """Set when there is something published, and networks that can be joined at once are."""
        self._settings = settings
        self._publish = publish
        self._engine = Engine(settings, forwards_here=forwards_here)
        self._planner = NetworkPlanner(settings)
        self._connectors = ConnectorPlanner(settings, self._planner.may_join)
        self._reader = SwarmReader(settings.service_cluster, self._planner.may_join)
        self._reading: Reading | None = None
        self._view: View | None = None
        self._told: tuple[Problem, ...] = ()
        """Problems of the planners that have been published."""
        self._woken = asyncio.Event()
        self._failures = 0
        self.trouble = ""
        """Why nothing new is known; empty: all is well."""
        self._last_change = 0.0
        self._last_event = 0.0

    async def run(self) -> None:
        """Publish until cancelled."""
        loop = asyncio.get_running_loop()
        worker = Worker("swarm listing")
        events = EventWatch(self._settings, lambda: _call_soon(loop, self._on_event))
        try:
            while True:
                pause = await self._step(worker)
                if self._reading is not None:
                    self.ready.set()
                self._woken.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._woken.wait()
        finally:
            events.stop()
            worker.stop()

    def _on_event(self) -> None:
        self._last_event = time.monotonic()
        self._woken.set()

    async def _step(self, worker: Worker) -> float:
        """Ask, publish and join; returns the seconds until that is due again, unless an event
        comes. However many come, listings do not take more than their share of the time."""
        try:
            view, cost = await worker.run(self._see)
        except ProviderError as error:
            return self._failed(error)
        if self._failures:
            log.info("swarm: the engine answers again")
            self._failures, self.trouble = 0, ""
        if view is not None:
            self._view = view
            self._last_change = time.monotonic()
            self._tell()
        await self._join_networks(worker)
        rest = min(cost / LISTING_SHARE, self._settings.poll_interval)
        await asyncio.sleep(rest)
        return max(0.0, self._pause() - rest)

    def _see(self) -> tuple[View | None, float]:
        """What there is to see (None: the same as before), and the seconds of CPU it took to
        find out. In the worker's thread: reading a large Swarm would hold up requests."""
        began = time.thread_time()
        view = self._engine.look()
        if view is not None:
            self._reading = self._reader.read(view.listing, view.standpoint)
        return view, time.thread_time() - began

    def _tell(self) -> None:
        """Publish what was read, and what was not possible."""
        if self._reading is None:
            return
        self._told = self._problems()
        snapshot = self._reading.snapshot
        self._publish(replace(snapshot, problems=snapshot.problems + self._told))

    def _problems(self) -> tuple[Problem, ...]:
        service = self._view.standpoint.service if self._view else ""
        return self._planner.problems() + self._connectors.problems(service)

    def _failed(self, error: ProviderError) -> float:
        """Nothing is published: what was, serves on."""
        self._failures += 1
        kept = "routes are kept" if self._reading else "no route is known yet"
        trouble = f"{error}; {kept}, trying again"
        if trouble != self.trouble:
            log.warning("swarm: %s", trouble)
            self.trouble = trouble
        return backoff(self._failures)

    def _pause(self) -> float:
        now = time.monotonic()
        unsettled = now - self._last_event < SETTLE
        converging = self._reading is not None and self._reading.converging
        if unsettled or (converging and now - self._last_change < FAST_POLL_LIMIT):
            return min(FAST_POLL, self._settings.poll_interval)
        return self._settings.poll_interval

    async def _join_networks(self, worker: Worker) -> None:
        if self._view is None or self._reading is None:
            return
        view = self._view
        change = self._planner.plan(
            view.listing, view.standpoint, self._reading.wanted, time.monotonic()
        )
        connectors = self._connectors.plan(
            view.listing, view.standpoint, self._reading.wanted, time.monotonic()
        )
        if self._problems() != self._told:
            self._tell()
        if change is not None:
            log.info("swarm: %s", change)
            try:
                await worker.run(lambda: self._engine.apply(change, view.standpoint))
            except ProviderError as error:
                self._planner.failed(change, str(error), time.monotonic())
                self._tell()
        if connectors is not None:
            log.info("swarm: %s", connectors)
            for name, reason in (await worker.run(lambda: self._engine.place(connectors))).items():
                self._connectors.failed(name, reason)
            self._tell()
        if change is not None or connectors is not None:
            self._on_event()  # look at once what came of it


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(callback)
