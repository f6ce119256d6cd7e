"""Which networks the proxies should join and leave: pure planning.

An application's overlay network often appears after the proxy. So the proxy joins by itself:

- an *attachable* overlay is plugged into the running container, live, at no cost;
- any other one takes a connector (``connectors.py``), or, if that is asked for, it is added to the
  proxy's own service, which replaces its tasks. That costs about a second per node, so it is done
  once for all networks that are due, after a moment of patience.

What was joined here is left when no published service has been on it for a while. What the
operator joined is never touched: networks added to the service are noted in a label on it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from stickyproxy.base.backoff import Backoff
from stickyproxy.config.settings import SwarmSettings
from stickyproxy.model.snapshot import Problem
from stickyproxy.providers.swarm.state import (
    Json,
    ProxyLocation,
    SwarmState,
    is_converging,
    name_of,
)

JOINED_LABEL = "stickyproxy.joined-networks"
"""On the proxy's own service: ids of the networks that were added to it here."""

PATIENCE = 2.0
"""Seconds that networks are collected before our own service is updated for all of them."""

SETTLE = 60.0
"""Seconds that tasks of our own service on their way hold up its next update."""

RETRY = (30.0, 1800.0)
"""Seconds before a change that failed, or came to nothing, is tried again: the first time, and at
most."""


@dataclass(frozen=True, slots=True)
class Change:
    """What to do now, by network id."""

    connect: tuple[str, ...] = ()
    disconnect: tuple[str, ...] = ()
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    names: Mapping[str, str] | None = None
    """For messages."""

    def applied_to(self, spec: Json) -> Json:
        """The specification of our own service with ``add`` and ``remove`` applied."""
        changed = copy.deepcopy(spec)
        template = changed["TaskTemplate"]
        kept = [n for n in template.get("Networks") or () if n["Target"] not in self.remove]
        there = {each["Target"] for each in kept}
        template["Networks"] = kept + [{"Target": n} for n in self.add if n not in there]
        joined = (joined_by_us(spec) - {*self.remove}) | ({*self.add} - there)
        marks = dict(changed.get("Labels") or {})
        marks.pop(JOINED_LABEL, None)
        if joined:
            marks[JOINED_LABEL] = ",".join(sorted(joined))
        changed["Labels"] = marks
        return changed

    def __str__(self) -> str:
        parts = (
            ("connecting to network", self.connect),
            ("disconnecting from network", self.disconnect),
            ("updating the proxy's service to join network", self.add),
            ("updating the proxy's service to leave network", self.remove),
        )
        names = self.names or {}
        return ", ".join(
            f"{words} {' '.join(names.get(n, n) for n in networks)}"
            for words, networks in parts
            if networks
        )


def joined_by_us(spec: Json) -> frozenset[str]:
    """Ids of the networks that were added to a service here."""
    text = (spec.get("Labels") or {}).get(JOINED_LABEL, "")
    return frozenset(each for each in text.split(",") if each)


@dataclass(frozen=True, slots=True)
class _Own:
    """The proxies' own service."""

    known: bool = False
    attached: frozenset[str] = frozenset()
    """Ids of the networks in its specification."""
    added: frozenset[str] = frozenset()
    """Those of them that were added here."""
    moving: bool = False
    """True while it should not be updated."""


def _plugged(location: ProxyLocation, own: _Own, networks: Mapping[str, Json]) -> set[str]:
    """Attachable overlays that our own container is on and its service is not: plugged in here,
    because nothing else does that to the task of a service."""
    if not (location.container and own.known):
        return set()
    joined = (networks[n] for n in location.networks or () if n in networks)
    overlays = {n["Id"] for n in joined if n.get("Attachable") and n.get("Scope") == "swarm"}
    return overlays - own.attached


@dataclass(slots=True)
class _JoinAttempt:
    due: float = 0.0
    """When it may be tried again."""
    error: str = ""
    backoff: Backoff = field(default_factory=lambda: Backoff(*RETRY))


class NetworkPlanner:
    """Remembers how long networks have been wanted or unused, and what has been tried."""

    def __init__(self, settings: SwarmSettings) -> None:
        self._enabled = settings.attach_networks
        self._allowed = settings.networks
        self._release_after = settings.release_networks_after
        self._by_service = settings.join_by == "service"
        self._missing_since: dict[str, float] = {}
        self._idle_since: dict[str, float] = {}
        self._attempts: dict[str, _JoinAttempt] = {}
        self._moving_since: float | None = None
        self._service = ""

    def plan(
        self,
        state: SwarmState,
        location: ProxyLocation,
        wanted: Mapping[str, frozenset[str]],
        now: float,
    ) -> Change | None:
        """What to do at ``now`` (seconds of any steady clock); None: nothing."""
        here = location.networks
        if not self._enabled or here is None:
            return None
        networks = {network["Id"]: network for network in state.networks}
        own = self._own_service(state, location, now)
        missing = {n for n in wanted if n not in here and self.may_join(networks.get(n))}
        self._missing_since = {n: self._missing_since.get(n, now) for n in missing}
        self._attempts = {n: a for n, a in self._attempts.items() if n in missing}

        live = {n for n in missing if location.container and networks[n].get("Attachable")}
        connect = {n for n in live if self._is_due(n, now)}
        add = self._to_add(missing - live, own, now)
        plugged = _plugged(location, own, networks)
        idle = self._idle((plugged | own.added) - wanted.keys(), now)
        disconnect = idle & plugged
        remove = idle & own.added if self._by_service and not own.moving else set()
        if not (connect or add or disconnect or remove):
            return None
        for network in connect | add:
            self._note_attempt(network, now)
        return Change(
            connect=tuple(sorted(connect)),
            disconnect=tuple(sorted(disconnect)),
            add=tuple(sorted(add)),
            remove=tuple(sorted(remove)),
            names={n: str(networks[n]["Name"]) for n in networks},
        )

    def _own_service(self, state: SwarmState, location: ProxyLocation, now: float) -> _Own:
        self._service = location.service
        for service in state.services:
            if name_of(service) == location.service:
                attached = service["Spec"]["TaskTemplate"].get("Networks") or ()
                ids = frozenset(str(each["Target"]) for each in attached)
                moving = self._is_moving(service, state, now)
                return _Own(True, ids, joined_by_us(service["Spec"]) & ids, moving)
        return _Own()

    def _is_moving(self, own: Json, state: SwarmState, now: float) -> bool:
        """True while our own service is not settled, but not for ever: one that never settles
        may need the very update that waits for it."""
        tasks = [task for task in state.tasks if task.get("ServiceID") == own["ID"]]
        if not is_converging(own, tasks):
            self._moving_since = None
            return False
        if self._moving_since is None:
            self._moving_since = now
        return now - self._moving_since < SETTLE

    def may_join(self, network: Json | None) -> bool:
        """True for a network that may be joined when a published service is on it."""
        if not self._enabled or network is None or network.get("Scope") != "swarm":
            return False
        allowed = self._allowed or ("*",)
        return any(fnmatchcase(network["Name"], pattern) for pattern in allowed)

    def _to_add(self, missing: set[str], own: _Own, now: float) -> set[str]:
        """Nothing while tasks of our own service are on their way: what the last update added is
        not yet seen in this one, and a new task should not be replaced before it is up."""
        if not (own.known and self._by_service) or own.moving:
            return set()
        new = missing - own.attached
        return {n for n in new if now - self._missing_since[n] >= PATIENCE and self._is_due(n, now)}

    def _idle(self, networks: set[str], now: float) -> set[str]:
        """Those that have not been needed for long enough."""
        self._idle_since = {n: self._idle_since.get(n, now) for n in networks}
        return {n for n in networks if now - self._idle_since[n] >= self._release_after}

    def _is_due(self, network: str, now: float) -> bool:
        attempt = self._attempts.get(network)
        return attempt is None or now >= attempt.due

    def _note_attempt(self, network: str, now: float) -> None:
        attempt = self._attempts.setdefault(network, _JoinAttempt())
        attempt.due = now + attempt.backoff.next()

    def failed(self, change: Change, reason: str, now: float) -> None:
        """The engine refused. If that is because something else has just updated the service, it
        is no failure: the next listing decides."""
        for network in change.connect + change.add:
            attempt = self._attempts.setdefault(network, _JoinAttempt())
            if "out of sequence" in reason:
                attempt.due = now + PATIENCE
            else:
                attempt.error = reason
        for network in change.disconnect + change.remove:
            self._idle_since[network] = now

    def problems(self) -> tuple[Problem, ...]:
        """What could not be joined, and why."""
        errors = sorted({a.error for a in self._attempts.values() if a.error})
        service = self._service or "stickyproxy"
        return tuple(Problem(service, f"joining a network failed: {e}") for e in errors)
