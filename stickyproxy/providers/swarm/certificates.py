"""The certificates that services name by ``ssl_cert`` and ``ssl_key``: pure.

A name stands for a Docker secret, else for a config. What is in a config the engine lists; what is
in a secret has to be read elsewhere (``custodian``), and is known a little later or not at all.

    label                          what happens
    the pair is good               shown to clients of the service's hosts, and no others
    one is not known yet           what was shown before goes on
    there is none of that name,    a problem, and what was shown before goes on; in a process that
    the key does not fit, ...      began after that, what the labels said before the last update of
                                   the service
    not valid yet, or no longer    likewise if what was shown before is valid; else it is shown
    not for (one of) the hosts     shown for them all the same, with a problem: who asks is refused
                                   by a self-made certificate as well
    ssl_cert alone                 the key is in it, too
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from stickyproxy.config.certificates import make_certificate
from stickyproxy.config.validity import covers, dates, is_valid
from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.snapshot import Problem
from stickyproxy.model.tls import Certificate
from stickyproxy.providers.engine.labels import PREFIX
from stickyproxy.providers.swarm.connectors import STACK
from stickyproxy.providers.swarm.state import Json, SwarmState, labels_of

CERT = PREFIX + "ssl_cert"
KEY = PREFIX + "ssl_key"


@dataclass(frozen=True, slots=True)
class Names:
    """What labels name."""

    cert: str
    key: str | None = None
    """None: it is where the certificate is."""


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """A service that asks for a certificate."""

    service: str
    """Its id."""
    spec: ServiceSpec
    stack: str
    names: Names
    before: Names | None = None
    """What its labels named before its last update."""


@dataclass(frozen=True, slots=True)
class CertificateReading:
    """What all requests come to."""

    certificates: tuple[Certificate, ...] = ()
    problems: tuple[Problem, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Id -> name of those that are needed."""
    unread: frozenset[str] = frozenset()
    """Ids of those whose content is not known."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A secret or a config."""

    kind: str
    id: str
    name: str
    data: bytes | None
    """What is in it; None: it is not known."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def text(self) -> str:
        return (self.data or b"").decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a pair is no certificate."""

    label: str
    value: str
    reason: str
    remedy: str = ""


class CertificateReader:
    """Reads one state after another, and remembers what each service showed last."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """``clock``: Unix time in seconds."""
        self._clock = clock
        self._shown: dict[str, Certificate] = {}
        """By the id of a service."""
        self._made: dict[tuple[str, str], Certificate | str] = {}
        """What pairs of secrets and configs, by their ids, have come to: neither ever changes."""

    def read(
        self,
        requests: Iterable[CertificateRequest],
        state: SwarmState,
        contents: Mapping[str, bytes],
    ) -> CertificateReading:
        """``contents``: what is in secrets, by their id, as far as it is known."""
        sources = _Named(state, contents)
        certificates: list[Certificate] = []
        problems: list[Problem] = []
        shown: dict[str, Certificate] = {}
        for request in requests:
            found, said = self._choose(request, sources)
            problems += said
            if found is not None:
                shown[request.service] = found
                certificates.append(replace(found, hosts=_hosts(request.spec, found)))
        self._shown = shown
        self._made = {pair: self._made[pair] for pair in sources.pairs & self._made.keys()}
        return CertificateReading(
            tuple(sorted(set(certificates), key=lambda each: (each.name, each.hosts))),
            tuple(problems),
            sources.needed,
            frozenset(sources.needed.keys() - contents.keys()),
        )

    def _choose(
        self, request: CertificateRequest, sources: _Named
    ) -> tuple[Certificate | None, list[Problem]]:
        """What is shown for a service, and what is wrong."""
        old = self._shown.get(request.service)
        new = self._make(request.names, request.stack, sources)
        if new is None:
            return old, []
        if isinstance(new, _Refusal):
            if request.before not in (None, request.names):
                earlier = self._make(request.before, request.stack, sources)
                if old is None and isinstance(earlier, Certificate):
                    old = earlier
            return old, [_refused(request, new, old)]
        now = self._clock()
        if old is not None and is_valid(old, now) and not is_valid(new, now):
            said = _Refusal(CERT, request.names.cert, f"{new.name} {dates(new, now)}")
            return old, [_refused(request, said, old)]
        return new, [*_misplaced(request, new), *_readable(request, sources)]

    def _make(
        self, names: Names | None, stack: str, sources: _Named
    ) -> Certificate | _Refusal | None:
        """None: not everything is known yet."""
        if names is None:
            return None
        cert = sources.find(names.cert, stack)
        if cert is None:
            return _missing(CERT, names.cert)
        key = cert if names.key is None else sources.find(names.key, stack)
        if key is None:
            return _missing(KEY, names.key or "")
        if cert.data is None or key.data is None:
            return None
        if names.key is None and "PRIVATE KEY-----" not in cert.text:
            reason = f"{cert} has no private key in it: name the key's secret in {KEY}"
            return _Refusal(CERT, names.cert, reason)
        pair = (cert.id, key.id)
        sources.pairs.add(pair)
        made = self._made.get(pair)
        if made is None:
            try:
                made = make_certificate(str(cert), cert.text, key.text, needs_hosts=False)
            except ValueError as error:
                made = str(error)
            self._made[pair] = made
        if isinstance(made, Certificate):
            return made
        about_key = names.key is not None and made.startswith("the key ")
        label, name = (KEY, names.key or "") if about_key else (CERT, names.cert)
        what = key if about_key else cert
        reason = f"{what}: {made} (a {what.kind} cannot be changed: create one, and name it here)"
        return _Refusal(label, name, reason)


class _Named:
    """Secrets and configs by name, and which of them were asked for."""

    def __init__(self, state: SwarmState, contents: Mapping[str, bytes]) -> None:
        self._contents = contents
        self._secrets = {_name(each): each for each in state.secrets}
        self._configs = {_name(each): each for each in state.configs}
        self.needed: dict[str, str] = {}
        """Id -> name, of secrets."""
        self.pairs: set[tuple[str, str]] = set()

    def find(self, name: str, stack: str) -> _Source | None:
        """By its name, with or without the stack's."""
        for full in (name, f"{stack}_{name}") if stack else (name,):
            if full in self._secrets:
                found = str(self._secrets[full]["ID"])
                self.needed[found] = full
                return _Source("secret", found, full, self._contents.get(found))
            if full in self._configs:
                config = self._configs[full]
                return _Source("config", str(config["ID"]), full, _data(config))
        return None


def _name(listed: Json) -> str:
    return str((listed.get("Spec") or {}).get("Name", ""))


def _data(config: Json) -> bytes:
    try:
        return base64.b64decode(str((config.get("Spec") or {}).get("Data") or ""))
    except binascii.Error:
        return b""


def named_by(services: Iterable[Json]) -> tuple[str, ...]:
    """All names that labels of services have for secrets and configs, or had before their last
    update."""
    found: set[str] = set()
    for service in services:
        for marks in (labels_of(service), labels_of({"Spec": service.get("PreviousSpec")})):
            names = {str(marks[label]).strip() for label in (CERT, KEY) if label in marks}
            stack = marks.get(STACK)
            found |= names | ({f"{stack}_{name}" for name in names} if stack else set())
    return tuple(sorted(found - {""}))


# --- which hosts it is for ------------------------------------------------------------------


def _hosts(spec: ServiceSpec, certificate: Certificate) -> tuple[str, ...]:
    """Those of the service that it covers, or else all of them. Clients of other hosts do not see
    it, whatever names are in it: they are other services'."""
    redirected = tuple(source for source, _ in spec.redirects)
    mine = [h for h in (*spec.hosts, *redirected) if covers(certificate.hosts, h)]
    if not any(host in mine for host in spec.hosts):
        mine += spec.hosts
    if spec.default_backend:
        mine += certificate.hosts
    return tuple(dict.fromkeys(mine))


def _misplaced(request: CertificateRequest, certificate: Certificate) -> list[Problem]:
    """That it is not for all hosts of its service."""
    others = [host for host in request.spec.hosts if not covers(certificate.hosts, host)]
    if not others:
        return []
    known = ", ".join(certificate.hosts[:5]) or "no host at all"
    reason = (
        f"{certificate.name} is for {known}, and clients refuse it for {', '.join(others)}: "
        "have one issued for all hosts of the service, or correct com.docker.lb.hosts"
    )
    return [_problem(request, CERT, request.names.cert, reason)]


def _readable(request: CertificateRequest, sources: _Named) -> list[Problem]:
    """That anybody can read the key."""
    names = request.names
    label, name = (CERT, names.cert) if names.key is None else (KEY, names.key)
    source = sources.find(name, request.stack)
    if source is None or source.kind == "secret":
        return []
    reason = f"{source} has a private key in it, and configs are no secrets: create a secret of it"
    return [_problem(request, label, name, reason)]


# --- what is wrong --------------------------------------------------------------------------


def _missing(label: str, name: str) -> _Refusal:
    reason = "is neither a secret nor a config of this Swarm: create it"
    return _Refusal(label, name, reason, f"docker secret create {name} {name}")


def _refused(request: CertificateRequest, refusal: _Refusal, old: Certificate | None) -> Problem:
    end = (
        "; until then the service has no certificate of its own"
        if old is None
        else f"; until then {old.name} goes on"
    )
    reason = refusal.reason + end
    return replace(
        _problem(request, refusal.label, refusal.value, reason),
        remedy=refusal.remedy,
        fatal=True,
        partial=old is None,
    )


def _problem(request: CertificateRequest, label: str, value: str, reason: str) -> Problem:
    return Problem(request.spec.name, reason, label, f'"{value}"')
