"""Labels of Swarm services and containers: pure parsing, by the validator of ``[[services]]``.

``parse_service`` never raises: whatever a label says becomes options or a problem, and every
problem of a service is found at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from stickyproxy.base.text import Misspelt, shown
from stickyproxy.base.values import boolean
from stickyproxy.config.options import (
    Boolean,
    Hosts,
    ServiceOptions,
    corrections,
    explain,
    nearest,
)
from stickyproxy.model.service import ADMIN_STATES, AdminState, EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Problem
from stickyproxy.providers.engine.hints import (
    Finding,
    LabelChange,
    Relabel,
    Tally,
    remedy,
    service_update,
    with_hints,
)

PREFIX = "com.docker.lb."
ADMIN_STATE = f"{PREFIX}admin_state"

# --- the options that only labels have -----------------------------------------------------

_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")


def _object_name(text: str) -> str:
    """The name of a Docker network, secret or proxy cluster. Raises ValueError."""
    if not text.strip():
        raise ValueError("is empty: write a name, or remove the label")
    if not _NAME.fullmatch(text.strip()):
        raise ValueError(
            f"{shown(text)} is not a name: use letters, digits, dots, hyphens and underscores"
        )
    return text.strip()


_MODES = ("task", "vip")


def _backend_mode(text: str) -> str:
    """How the endpoints of a service are found. Raises ValueError."""
    word = text.strip().lower()
    if word in _MODES:
        return word
    message = f'{shown(text)} is not known: write "task" or "vip"'
    guess = nearest(word, _MODES)
    raise Misspelt(message, guess) if guess else ValueError(message)


ObjectName = Annotated[str, AfterValidator(_object_name)]
BackendMode = Annotated[Literal["task", "vip"], BeforeValidator(_backend_mode)]


class LabelOptions(ServiceOptions):
    """Every option that labels can set."""

    network: ObjectName | None = None
    backend_mode: BackendMode = "task"
    service_cluster: ObjectName | None = None
    ssl_cert: ObjectName | None = None
    ssl_key: ObjectName | None = None
    ssl_acme: Boolean = False

    @field_validator("ssl_key")
    @classmethod
    def _needs_ssl_cert(cls, value: object, info: ValidationInfo) -> object:
        if "ssl_cert" in info.data and info.data["ssl_cert"] is None:
            raise ValueError("has no meaning without ssl_cert: set that too, or remove this label")
        return value

    def spec(self, name: str, endpoints: Iterable[EndpointSpec]) -> ServiceSpec:
        """As declared, with what labels have another name for."""
        return replace(super().spec(name, endpoints), acme=self.ssl_acme)

    @property
    def has_affinity(self) -> bool:
        """True if a client is to keep reaching one endpoint."""
        policy = self.policy()
        return policy is not None and policy.affinity


KNOWN = tuple(key for key in LabelOptions.model_fields if key != "acme")
"""Every label there is, without the prefix."""

_EXAMPLES = {"hosts": "{service}.example.com", "port": "8080"}
"""Values for labels that have no default."""

_DNS_UNFIT = re.compile("[^A-Za-z0-9_.-]")
"""What a name of ours may have and a host's may not."""

_LISTS = ("hosts", "websocket_endpoints")
"""Labels with several values, by commas."""

_SECRET = (PREFIX + "basic_auth",)
"""Labels whose values are not shown."""

_IN_THE_CLEAR = (
    *("ssl_only", "ssl_passthrough", "ssl_backend", "client_ca", "client_certificates"),
    *("allow_from", "deny_from", "basic_auth"),
)
"""Labels without which traffic would be unencrypted, reach an endpoint that only speaks TLS, or
come from anybody."""


# --- parsing --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Declaration:
    """What the labels of one service ask for."""

    options: LabelOptions | None
    """None: they cannot be used, and ``problems`` says why."""
    problems: tuple[Problem, ...]
    encrypted: bool = False
    """True if they ask for encryption, or may have been meant to: then nothing may be served that
    earlier labels, which did not ask for it, would have served in the clear."""
    hosts: frozenset[str] | None = None
    """The hosts they name; None: unknown."""
    default_backend: bool = False
    """True if they may name the service as the one for any other host."""

    def still_named(self, earlier: LabelOptions) -> LabelOptions | None:
        """Earlier options, without the places that these labels have given up: another service may
        have them now. None if no place is left."""
        kept = earlier.hosts
        if self.hosts is not None:
            kept = tuple(host for host in kept if host in self.hosts)
        default = earlier.default_backend and self.default_backend
        if not kept and not default:
            return None
        return earlier.model_copy(update={"hosts": kept, "default_backend": default})


def parse_service(
    service: str,
    labels: Mapping[str, str],
    ports: Iterable[int] = (),
    relabel: Relabel = service_update,
) -> Declaration | None:
    """What ``labels`` ask for; None if none of them is ours.

    ``ports``: the endpoint ports the service itself names (it publishes them), from which a
    missing ``port`` is inferred if there is exactly one. ``relabel`` makes remedies.
    """
    ours = {key: labels[key] for key in labels if key.startswith(PREFIX)}
    if not ours:
        return None
    ports = tuple(ports)
    declaration, findings = _parse(service, ours, ports)

    def fare(changed: Mapping[str, str]) -> Tally:
        if not changed:
            return Tally(0, frozenset())  # nobody wants it published
        now, found = _parse(service, changed, ports)
        return Tally(len(found), now.hosts)

    return replace(declaration, problems=tuple(with_hints(findings, ours, fare, relabel)))


def _parse(
    service: str, labels: Mapping[str, str], ports: Sequence[int]
) -> tuple[Declaration, list[Finding]]:
    """What these labels ask for, and what is wrong with them."""
    values = {key.removeprefix(PREFIX): labels[key] for key in labels}
    encrypted = any(_asks_for_encryption(key, values[key]) for key in values)
    slips = sorted(values.keys() - {*KNOWN})
    meant = {_guess(key) for key in slips}  # what these say is not missing
    findings = [_unknown(service, key, values.pop(key), labels) for key in slips]
    if not {"port"} & {*values, *meant} and (missing := _infer_port(service, values, ports)):
        findings.append(missing)
    try:
        options = LabelOptions.model_validate(values)
    except ValidationError as error:
        findings += (
            finding
            for finding in _explained(service, values, error, ports)
            if finding[0].label.removeprefix(PREFIX) in values.keys() | ({*KNOWN} - meant)
        )
        wrong = {str(each["loc"][0]) for each in error.errors() if each["loc"]}
        hosts = None if wrong & {"hosts"} & values.keys() or "hosts" in meant else _hosts(values)
        default = bool({"default_backend"} & {*values, *meant})
        return Declaration(None, (), encrypted, hosts, default), findings
    if options.backend_mode == "vip" and options.has_affinity:
        findings.append(_vip_with_affinity(service, values))
    fatal = any(problem.fatal for problem, _ in findings)
    hosts = None if "hosts" in meant else frozenset(options.hosts)
    default = options.default_backend or "default_backend" in meant
    return Declaration(None if fatal else options, (), encrypted, hosts, default), findings


@lru_cache(maxsize=4096)
def _guess(key: str) -> str | None:
    """The label that was meant by an unknown one, if there is one like it."""
    return nearest(key, KNOWN)


def _hosts(values: Mapping[str, str]) -> frozenset[str]:
    """What a valid label says, as its options have it."""
    return frozenset(_HOSTS.validate_python(values["hosts"]) if "hosts" in values else ())


_HOSTS: TypeAdapter[tuple[str, ...]] = TypeAdapter(Hosts)


def admin_state(marks: Mapping[str, str]) -> AdminState | None:
    """What the label ``admin_state`` of a machine wants of the endpoints there; None: it is not
    understood."""
    word = marks.get(ADMIN_STATE, "ready").strip().lower()
    return next((state for state in ADMIN_STATES if state == word), None)


def lookalikes(service: str, labels: Mapping[str, str]) -> Iterator[Problem]:
    """Labels that are not ours, but look as if they were intended to be."""
    for label in sorted(labels):
        if not label.startswith(PREFIX) and (guess := _lookalike(label)):
            yield _problem(service, label, labels[label], f"looks like {guess}: is it that?")


@lru_cache(maxsize=4096)
def _lookalike(label: str) -> str:
    """The label of ours that it looks like, or nothing: close enough to be a typo;
    com.docker.stack.* is not."""
    known = [PREFIX + key for key in KNOWN]
    return next(iter(get_close_matches(label.lower(), known, n=1, cutoff=0.9)), "")


def on_containers(service: str, labels: Mapping[str, str]) -> Problem | None:
    """The usual trap of stack files: labels of the container are not those of the service."""
    ours = sorted(label for label in labels if label.startswith(PREFIX))
    if not ours:
        return None
    return _problem(
        service,
        ours[0],
        labels[ours[0]],
        "is set on the containers, where no proxy reads it: in a stack file, put it under "
        "deploy: labels:",
        remedy=remedy(service, LabelChange(add=tuple((label, labels[label]) for label in ours))),
    )


def _problem(
    service: str, label: str, value: str, reason: str, *, fatal: bool = False, remedy: str = ""
) -> Problem:
    name = label if label.isprintable() and label.isascii() and len(label) <= 80 else shown(label)
    quoted = shown(value) if value and label not in _SECRET else ""
    return Problem(service, reason, name, quoted, remedy, fatal)


def _unknown(service: str, key: str, value: str, labels: Mapping[str, str]) -> Finding:
    guess = _guess(key)
    hint = f"did you mean {PREFIX}{guess}?" if guess else f"known: {', '.join(KNOWN)}"
    reason = f"is not a known label ({hint})"
    label = PREFIX + key
    if guess is None or PREFIX + guess in labels:
        changes = [] if _asks_for_encryption(key, value) else [LabelChange(remove=(label,))]
    else:
        meant = [] if _is_yes_or_no(value) and not _is_switch(guess) else [value]
        meant += _corrected(guess, value)
        changes = [LabelChange(remove=(label,), add=((PREFIX + guess, text),)) for text in meant]
    return _problem(service, label, value, reason, fatal=True), changes


def _is_switch(key: str) -> bool:
    return LabelOptions.model_fields[key].default is False


def _is_yes_or_no(text: str) -> bool:
    try:
        boolean(text)
    except ValueError as error:
        return isinstance(error, Misspelt)
    return True


def _corrected(key: str, text: str) -> list[str]:
    """The value of a label as it was meant, if that is known."""
    try:
        LabelOptions.model_validate({key: text})
    except ValidationError as error:
        meant = {where[1:]: value for where, value in corrections(error) if where[0] == key}
        wrong = {each["loc"][1:] for each in error.errors() if each["loc"][0] == key}
        if () in meant:
            return [meant[()]]
        items = [item.strip() for item in text.split(",") if item.strip()]
        # Without what cannot be corrected, as long as something is left.
        listed = [
            meant.get((number,), item)
            for number, item in enumerate(items)
            if (number,) not in wrong or (number,) in meant
        ]
        return [",".join(dict.fromkeys(listed))] if listed and key in _LISTS else []
    return []


def _infer_port(service: str, values: dict[str, str], ports: Iterable[int]) -> Finding | None:
    """Set the port in ``values``, or say why not."""
    candidates = sorted(set(ports))
    if len(candidates) == 1:
        values["port"] = str(candidates[0])
        return None
    found = ", ".join(map(str, candidates))
    reason = (
        f"is required, because the service publishes several ports: write one of {found}"
        if candidates
        else "is required: write the port the application listens on"
    )
    example = candidates[0] if candidates else 8080
    change = LabelChange(add=((PREFIX + "port", str(example)),))
    return _problem(service, PREFIX + "port", "", reason, fatal=True), [change]


def _explained(
    service: str, values: Mapping[str, str], error: ValidationError, ports: Sequence[int]
) -> Iterator[Finding]:
    for location, reason in explain(error, lambda _: KNOWN):
        key, value = str(location[0]), values.get(str(location[0]), "")
        meant = _corrected(key, value) if key in values else []
        if not meant and key in _EXAMPLES:
            example = _EXAMPLES[key].format(service=_DNS_UNFIT.sub("-", service))
            meant = [str(ports[0]) if key == "port" and len(ports) == 1 else example]
        changes = [LabelChange(add=((PREFIX + key, text),)) for text in meant]
        if key == "hosts" and value.strip() == "*":
            everywhere = ((PREFIX + "default_backend", "true"),)
            changes = [LabelChange(remove=(PREFIX + key,), add=everywhere)]
        elif not meant and not _asks_for_encryption(key, value):
            changes = [LabelChange(remove=(PREFIX + key,))]  # then the default applies
        yield _problem(service, PREFIX + key, value, reason, fatal=True), changes


def _asks_for_encryption(key: str, text: str) -> bool:
    """True for anything but a plain "no": a typo must not send secrets in the clear."""
    if key not in KNOWN:
        return "ssl" in key.lower() or _guess(key) in _IN_THE_CLEAR
    try:
        return key in _IN_THE_CLEAR and boolean(text)
    except ValueError:
        return True


def _vip_with_affinity(service: str, values: Mapping[str, str]) -> Finding:
    label = PREFIX + "backend_mode"
    reason = "has one upstream for all clients, so no session sticks: remove it or the affinity"
    return _problem(service, label, values["backend_mode"], reason), [LabelChange(remove=(label,))]
