"""The custodian that there should be: pure planning.

Docker's API never gives out what is in a secret. A container has it, of a service that the secret
is mounted in; to mount it in the service that this provider runs in would replace its tasks, and
with them the proxies. So a small service of its own has the secrets (``stickyproxy/custodian``),
with a task on every node that may have a provider, and the provider asks the one on its node, by
``exec``, through the engine that it is asking anyway. Nothing serves through it: it may be replaced
at any time.

What is mounted follows from labels, as the planning of connectors does: every provider of a Swarm
decides alike. Only what has become known to all of them may go, so one that has something left to
read takes nothing away.
"""

from __future__ import annotations

from collections.abc import Mapping

from stickyproxy.base.backoff import Backoff
from stickyproxy.model.snapshot import Problem
from stickyproxy.providers.swarm.connectors import (
    FASTER,
    RETRY,
    SETTLE,
    STACK,
    CompanionChange,
    Replacement,
    beside,
    fingerprint,
    free_name,
)
from stickyproxy.providers.swarm.state import (
    CUSTODIAN_PROXY,
    Json,
    ProxyLocation,
    SwarmState,
    labels_of,
    name_of,
)

REVISION = 1
"""Of what ``custodian_spec`` makes: an older proxy leaves a newer one's alone."""

CUSTODIAN_REVISION = "com.stickyproxy.custodian.revision"
CUSTODIAN_SPEC = "com.stickyproxy.custodian.spec"
"""Labels of a custodian: the revision, and a hash of its specification without the image."""

NAME = "stickyproxy-secrets"

MODE = 0o444
"""Of the secrets' files: whoever the image runs as may read them, and nobody else is there."""

_ON_MANAGERS = "node.role==manager"
"""Where providers are: only managers can be asked for services."""


class CustodianPlanner:
    """Remembers what has been tried."""

    def __init__(self) -> None:
        self._backoff = Backoff(*RETRY)
        self._due = 0.0
        self._tried: object = None
        """What was tried last: something else is tried at once."""
        self._seen = -SETTLE
        """When there was one."""
        self._error = ""
        self._wanting = ""

    def plan(
        self,
        state: SwarmState,
        location: ProxyLocation,
        secrets: Mapping[str, str],
        now: float,
        *,
        unread: bool = False,
    ) -> CompanionChange | None:
        """What to do at ``now`` (seconds of any steady clock), None: nothing. ``secrets``: id ->
        name of those that are needed. ``unread``: not all of them are known here yet."""
        owner = owner_of(state, location)
        there = custodian_of(state, location)
        self._wanting = "" if owner or not secrets else _NOWHERE
        if there is not None:
            self._seen = now
            if unread:
                secrets = mounted(there) | dict(secrets)
        elif now - self._seen < SETTLE:  # the whole stack may be about to go
            return None
        change = _change(owner, there, secrets, state, location)
        if change is None:
            self._error, self._tried = "", None
            self._backoff.reset()
            return None
        wish = (sorted(secrets), there is None)
        if wish == self._tried and now < self._due:
            return None
        self._tried = wish
        self._due = now + self._backoff.next()
        return change

    def failed(self, reason: str) -> None:
        """The engine refused. That another provider was faster is no failure."""
        if not any(words in reason for words in FASTER):
            self._error = reason

    @property
    def error(self) -> str:
        """Why it cannot be as it should; empty: it can."""
        if self._error:
            return f"service {NAME}, which has the secrets, cannot be changed: {self._error}"
        return self._wanting

    def problems(self, service: str) -> tuple[Problem, ...]:
        """The same. ``service``: the proxies'."""
        return (Problem(service or "stickyproxy", self.error, fatal=True),) if self.error else ()


_NOWHERE = (
    "no secret can be read, because that takes a service of an image of stickyproxy, and this "
    "process is in none: set proxy_service to the name of the proxies' service, or keep "
    "certificates in files ([[certificates]])"
)


def owner_of(state: SwarmState, location: ProxyLocation) -> Json | None:
    """The service that a custodian is made after: the one that this provider runs in, else that of
    the proxies."""
    names = {name_of(service): service for service in state.services}
    return names.get(location.host) or names.get(location.service)


def custodian_of(state: SwarmState, location: ProxyLocation) -> Json | None:
    """The custodian that there is."""
    owner = owner_of(state, location)
    if owner is None:
        return None
    found = [s for s in state.services if labels_of(s).get(CUSTODIAN_PROXY) == name_of(owner)]
    return min(found, key=lambda service: str(service.get("ID")), default=None)


def mounted(custodian: Json) -> dict[str, str]:
    """Id -> name of the secrets that it has."""
    listed = custodian["Spec"]["TaskTemplate"]["ContainerSpec"].get("Secrets") or ()
    return {str(each["SecretID"]): str(each["SecretName"]) for each in listed}


def _change(
    owner: Json | None,
    there: Json | None,
    secrets: Mapping[str, str],
    state: SwarmState,
    location: ProxyLocation,
) -> CompanionChange | None:
    names = {name_of(service) for service in state.services}
    surplus = _orphans(state, names)
    if not secrets and there is not None:
        surplus = (*surplus, there)
    if surplus:
        return CompanionChange(remove=surplus, what="custodian")
    if owner is None or not secrets:
        return None
    anywhere = name_of(owner) != location.host
    spec = custodian_spec(owner, secrets, names, on_managers=anywhere)
    if there is None:
        return CompanionChange(create=(spec,), what="custodian")
    marks = labels_of(there)
    revision = marks.get(CUSTODIAN_REVISION, "")
    if revision.isdecimal() and int(revision) > REVISION:
        return None
    if spec["Labels"][CUSTODIAN_SPEC] == marks.get(CUSTODIAN_SPEC):
        return None
    spec["Name"] = name_of(there)
    update = Replacement(there["ID"], there["Version"]["Index"], spec)
    return CompanionChange(update=(update,), what="custodian")


def _orphans(state: SwarmState, names: set[str]) -> tuple[Json, ...]:
    """Custodians whose owner is gone."""
    marks = ((each, labels_of(each).get(CUSTODIAN_PROXY)) for each in state.services)
    return tuple(each for each, owner in marks if owner is not None and owner not in names)


def custodian_spec(
    owner: Json,
    secrets: Mapping[str, str],
    names: set[str] | frozenset[str] = frozenset(),
    *,
    on_managers: bool = False,
) -> Json:
    """The service that has ``secrets``, of the image of ``owner``; ``names`` are taken.
    ``on_managers``: on all of them, wherever the owner's tasks may be."""
    files = [
        {
            "SecretID": each,
            "SecretName": secrets[each],
            "File": {"Name": each, "UID": "0", "GID": "0", "Mode": MODE},
        }
        for each in sorted(secrets)
    ]
    name = free_name(NAME, name_of(owner), names)
    spec = beside(owner, name, {"Args": ["custodian"], "Secrets": files})
    spec["UpdateConfig"]["Parallelism"] = 0  # all at once: nobody waits for any of them
    if on_managers:
        spec["TaskTemplate"]["Placement"] = {"Constraints": [_ON_MANAGERS]}
    marks = {
        CUSTODIAN_PROXY: name_of(owner),
        CUSTODIAN_REVISION: str(REVISION),
        CUSTODIAN_SPEC: fingerprint(spec),
    }
    stack = labels_of(owner).get(STACK)
    spec["Labels"] = marks if stack is None else marks | {STACK: stack}
    return spec
