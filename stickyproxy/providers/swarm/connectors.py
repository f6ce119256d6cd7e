"""Which connectors there should be: pure planning.

A connector (``stickyproxy/connector``) is a small service of the Swarm, one for each network that
published services are on and the proxies are not: a task on every node that may have a proxy, of
the same image and user, with the volume in which they meet. Publishing on a new network thus
replaces no proxy, and leaving it replaces none either.

Every manager's proxy decides, and each decides the same, from what is listed alone: which services
there are, and what their labels say. A connector that two of them create has one name, and the
second is refused; one that two of them remove is gone all the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from stickyproxy.base.backoff import Backoff
from stickyproxy.config.settings import SwarmSettings
from stickyproxy.connector.wire import DIRECTORY
from stickyproxy.model.snapshot import Problem
from stickyproxy.providers.swarm.state import (
    CONNECTOR_NETWORK,
    CONNECTOR_PROXY,
    Json,
    ProxyLocation,
    SwarmState,
    labels_of,
    name_of,
)

REVISION = 1
"""Of what ``connector_spec`` makes. While proxies are updated, two versions of them run side by
side: the older one leaves the newer one's connectors alone."""

CONNECTOR_REVISION = "com.stickyproxy.connector.revision"
CONNECTOR_SPEC = "com.stickyproxy.connector.spec"
"""Labels of a connector: the revision, and a hash of its specification without the image."""

STACK = "com.docker.stack.namespace"
"""Whose value a connector shares with its proxies: ``docker stack rm`` removes it with them."""

RETRY = (2.0, 300.0)
"""Seconds before a change that failed, or came to nothing, is tried again: the first time, and at
most."""

SETTLE = 2.0
"""Seconds before a connector is recreated that was there a moment ago: the whole stack may be
about to go."""

GRACE_NANOSECONDS = 35 * 10**9
"""More than what a connector gives connections to end in."""

MAX_NAME = 63
"""Characters in the name of a service."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """A service to update."""

    service: str
    """Its id."""
    version: int
    spec: Json


@dataclass(frozen=True, slots=True)
class CompanionChange:
    """What to do now with services that go with the proxies' own."""

    create: tuple[Json, ...] = ()
    """Specifications."""
    update: tuple[Replacement, ...] = ()
    remove: tuple[Json, ...] = ()
    """Services as listed."""
    what: str = "connector"

    def __str__(self) -> str:
        parts = (
            (f"creating {self.what}", [str(spec["Name"]) for spec in self.create]),
            (f"updating {self.what}", [str(each.spec["Name"]) for each in self.update]),
            (f"removing {self.what}", [name_of(service) for service in self.remove]),
        )
        return ", ".join(f"{words} {' '.join(names)}" for words, names in parts if names)


@dataclass(slots=True)
class _Placement:
    """What has been tried for one connector."""

    name: str
    """The connector's."""
    due: float = 0.0
    """When it may be tried again."""
    error: str = ""
    backoff: Backoff = field(default_factory=lambda: Backoff(*RETRY))


class ConnectorPlanner:
    """Remembers what has been tried, and what was there."""

    def __init__(self, settings: SwarmSettings, may_join: Callable[[Json | None], bool]) -> None:
        """``may_join``: whether a network may be joined."""
        self._enabled = settings.attach_networks and settings.join_by == "connector"
        self._may_join = may_join
        self._attempts: dict[str, _Placement] = {}
        """By the id of a network, to create or update its connector; by that of a service, to
        remove it. The former stay for as long as the network is needed: if another client removes
        what is created here, the two should not go on for ever at full speed."""
        self._seen: dict[str, float] = {}
        """Network -> when its connector was last listed."""
        self._wanting = ""
        """Why none can be made."""

    def plan(
        self,
        state: SwarmState,
        location: ProxyLocation,
        wanted: Mapping[str, frozenset[str]],
        now: float,
    ) -> CompanionChange | None:
        """What to do at ``now`` (seconds of any steady clock), None: nothing. ``wanted``: ids of
        the networks that published services are to be reached on."""
        if not self._enabled:
            return None
        own = next((s for s in state.services if name_of(s) == location.service), None)
        there, surplus = _connectors(state, location.service)
        self._seen = {n: at for n, at in self._seen.items() if now - at < SETTLE}
        self._seen |= dict.fromkeys(there, now)
        needed = {} if own is None else self._needed(own, state, location, wanted)
        self._wanting = "" if own is None or not needed else _why_not(own)
        create: dict[str, Json] = {}
        update: dict[str, Replacement] = {}
        if own is not None and not self._wanting:
            names = {name_of(service) for service in state.services}
            for network, shown in needed.items():
                if network not in there and network not in self._seen:
                    create[network] = connector_spec(own, shown, names)
                elif network in there and (late := _outdated(there[network], own, shown)):
                    update[network] = late
        if own is not None:
            surplus += [service for n, service in there.items() if n not in needed]
        remove = {str(service["ID"]): service for service in surplus}
        self._attempts = {k: a for k, a in self._attempts.items() if k in needed or k in remove}
        for network in there.keys() & self._attempts.keys() - update.keys():
            self._attempts[network].error = ""
        change = CompanionChange(
            tuple(s for n, s in create.items() if self._is_due(n, s["Name"], now)),
            tuple(u for n, u in update.items() if self._is_due(n, u.spec["Name"], now)),
            tuple(s for n, s in remove.items() if self._is_due(n, name_of(s), now)),
        )
        return change if str(change) else None

    def _needed(
        self,
        own: Json,
        state: SwarmState,
        location: ProxyLocation,
        wanted: Mapping[str, frozenset[str]],
    ) -> dict[str, Json]:
        """The networks that take a connector, by id. What decides is what the proxies' service is
        to be on, not what this one's container is on: so all proxies decide alike while theirs are
        being replaced."""
        attached = {str(n["Target"]) for n in own["Spec"]["TaskTemplate"].get("Networks") or ()}
        networks = {str(network["Id"]): network for network in state.networks}
        needed = {}
        for network in sorted(wanted.keys() - attached):
            shown = networks.get(network)
            if shown is None or not self._may_join(shown):
                continue
            if location.container and shown.get("Attachable"):
                continue  # plugged into the running container
            needed[network] = shown
        return needed

    def _is_due(self, key: str, name: str, now: float) -> bool:
        """Whether to try it now; that is noted."""
        attempt = self._attempts.setdefault(key, _Placement(name))
        if now < attempt.due:
            return False
        attempt.name = name
        attempt.due = now + attempt.backoff.next()
        return True

    def failed(self, name: str, reason: str) -> None:
        """The engine refused. That another proxy was faster is no failure."""
        if any(words in reason for words in FASTER):
            return
        for attempt in self._attempts.values():
            if attempt.name == name:
                attempt.error = reason

    def problems(self, service: str) -> tuple[Problem, ...]:
        """What could not be done, and why. ``service``: the proxies'."""
        failures = sorted((a.name, a.error) for a in self._attempts.values() if a.error)
        problems = [
            Problem(service, f"service {name} cannot be created, updated or removed: {why}")
            for name, why in failures
        ]
        if self._wanting:
            remedy = f"docker service update --mount-add {_MOUNT} {service}"
            problems.append(Problem(service, self._wanting, remedy=remedy))
        return tuple(problems)


FASTER = ("out of sequence", "name conflicts with an existing object", "not found")
"""What the engine says where another manager's proxy has done the same already."""

_MOUNT = f"type=volume,source=stickyproxy_run,target={DIRECTORY}"


def _connectors(state: SwarmState, proxy: str) -> tuple[dict[str, Json], list[Json]]:
    """Those of a proxies' service by network, and those that are of no use: a second
    one for a network, and the connectors of proxies that are gone."""
    names = {name_of(service) for service in state.services}
    there: dict[str, Json] = {}
    surplus = []
    for service in sorted(state.services, key=lambda service: str(service.get("ID"))):
        marks = labels_of(service)
        network, owner = marks.get(CONNECTOR_NETWORK), marks.get(CONNECTOR_PROXY)
        if network is None or owner is None:
            continue
        if owner not in names or (owner == proxy and network in there):
            surplus.append(service)
        elif owner == proxy:
            there[network] = service
    return there, surplus


def _volume(own: Json) -> Json | None:
    """The mount by which the proxies reach their connectors."""
    mounts = own["Spec"]["TaskTemplate"]["ContainerSpec"].get("Mounts") or ()
    for mount in mounts:
        if str(mount.get("Target", "")).rstrip("/") == DIRECTORY:
            return {key: value for key, value in mount.items() if key != "ReadOnly"}
    return None


def _why_not(own: Json) -> str:
    """Why proxies of this service cannot have connectors; empty: they can."""
    if _volume(own) is None:
        return (
            f"no network can be joined without a volume at {DIRECTORY}, where proxies meet "
            "their connectors"
        )
    return ""


def connector_spec(own: Json, network: Json, names: set[str] | frozenset[str]) -> Json:
    """The service that connects the proxies of ``own`` to ``network``; ``names`` are taken."""
    stack = labels_of(own).get(STACK)
    command = ["connector", "--network", network["Name"], "--directory", DIRECTORY]
    container = {"Args": command, "Mounts": [_volume(own)], "StopGracePeriod": GRACE_NANOSECONDS}
    spec = beside(own, _service_name(own, network, names), container)
    spec["TaskTemplate"]["Networks"] = [{"Target": network["Id"]}]
    marks = {
        CONNECTOR_NETWORK: network["Id"],
        CONNECTOR_PROXY: name_of(own),
        CONNECTOR_REVISION: str(REVISION),
        CONNECTOR_SPEC: fingerprint(spec),
    }
    spec["Labels"] = marks if stack is None else marks | {STACK: stack}
    return spec


def beside(own: Json, name: str, container: Json) -> Json:
    """The specification of a service with a task beside each one of ``own``, of the same image and
    user, without rights. ``container``: what its containers have."""
    template = own["Spec"]["TaskTemplate"]
    proxy = template["ContainerSpec"]
    common: Json = {
        "Image": proxy["Image"],
        "ReadOnly": True,
        "CapabilityDrop": ["ALL"],
        "Healthcheck": {"Test": ["NONE"]},  # each check would start a process larger than this
        # Only processes of the same user may open the socket; the rest is how it is started.
        **{key: proxy[key] for key in ("Command", "User", "Groups", "Privileges") if key in proxy},
    }
    placement = template.get("Placement") or {}
    return {
        "Name": name,
        "TaskTemplate": {
            "ContainerSpec": common | container,
            "Placement": {k: placement[k] for k in ("Constraints", "Platforms") if k in placement},
            "RestartPolicy": {"Condition": "any", "Delay": 5 * 10**8},
            **{key: template[key] for key in ("LogDriver", "Runtime") if key in template},
        },
        "Mode": {"Global": {}},
        # The next one is there before the last one goes, and connected proxies may finish.
        "UpdateConfig": {"Order": "start-first", "Parallelism": 1, "FailureAction": "pause"},
        "EndpointSpec": {"Mode": "dnsrr"},  # nothing connects to it
    }


def fingerprint(spec: Json) -> str:
    """Of a specification without labels, name and image: a connector lives on when its proxies are
    updated to another version."""
    template = spec["TaskTemplate"]
    rest = template | {"ContainerSpec": template["ContainerSpec"] | {"Image": ""}}
    text = json.dumps([rest, spec["UpdateConfig"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _service_name(own: Json, network: Json, names: set[str] | frozenset[str]) -> str:
    """``stickyproxy-net-NETWORK``; a longer one if that is too long or another's."""
    plain = "stickyproxy-net-" + str(network["Name"]).replace(".", "-")
    return free_name(plain, f"{name_of(own)} {network['Id']}", names)


def free_name(plain: str, identity: str, names: Collection[str]) -> str:
    """A name for a service; with a hash of its identity if the plain one is too long or taken."""
    if plain not in names and len(plain) <= MAX_NAME:
        return plain
    mark = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return f"{plain[: MAX_NAME - len(mark) - 1]}-{mark}"


def _outdated(connector: Json, own: Json, network: Json) -> Replacement | None:
    """The update that a connector is due, None: it is as it should be, or a newer proxy's."""
    marks = labels_of(connector)
    revision = marks.get(CONNECTOR_REVISION, "")
    if revision.isdecimal() and int(revision) > REVISION:
        return None
    spec = connector_spec(own, network, frozenset())
    if spec["Labels"][CONNECTOR_SPEC] == marks.get(CONNECTOR_SPEC):
        return None
    spec["Name"] = name_of(connector)
    return Replacement(connector["ID"], connector["Version"]["Index"], spec)
