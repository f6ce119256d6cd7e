"""Labels of Swarm services: pure parsing, by the same validator as ``[[services]]``.

``parse_service`` never raises: whatever a label says becomes options or a problem, and every
problem of a service is found at once.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
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

from stickyproxy.base.text import shown
from stickyproxy.base.values import boolean
from stickyproxy.config.options import Boolean, Hosts, ServiceOptions, explain, nearest
from stickyproxy.model.snapshot import Problem

PREFIX = "com.docker.lb."

# --- the options that only Swarm services have ----------------------------------------------

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


def _word(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


ObjectName = Annotated[str, AfterValidator(_object_name)]
BackendMode = Annotated[Literal["task", "vip"], BeforeValidator(_word)]


class LabelOptions(ServiceOptions):
    """Every option that the labels of a Swarm service can set."""

    network: ObjectName | None = None
    backend_mode: BackendMode = "task"
    service_cluster: ObjectName | None = None
    ssl_cert: ObjectName | None = None
    ssl_key: ObjectName | None = None
    ssl_only: Boolean = False
    ssl_passthrough: Boolean = False
    ssl_backend: Boolean = False
    ssl_backend_tls_verify: Boolean = False

    @field_validator("ssl_key")
    @classmethod
    def _needs_ssl_cert(cls, value: object, info: ValidationInfo) -> object:
        if "ssl_cert" in info.data and info.data["ssl_cert"] is None:
            raise ValueError("has no meaning without ssl_cert: set that too, or remove this label")
        return value

    @property
    def has_affinity(self) -> bool:
        """True if a client is to keep reaching one endpoint."""
        policy = self.policy()
        return policy is not None and policy.affinity


KNOWN = tuple(LabelOptions.model_fields)
"""Every label there is, without the prefix."""

_EXAMPLES = {"hosts": "{service}.example.com", "port": "8080"}
"""Values for labels that have no default."""

_IN_THE_CLEAR = ("ssl_only", "ssl_passthrough", "ssl_backend")
"""Labels that keep a service from being published as long as they are not supported: its traffic
would be unencrypted, or reach an endpoint that only speaks TLS."""


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
    service: str, labels: Mapping[str, str], ports: Iterable[int] = ()
) -> Declaration | None:
    """What ``labels`` ask for; None if none of them is ours.

    ``ports``: the endpoint ports the service itself names (it publishes them), from which a
    missing ``port`` is inferred if there is exactly one.
    """
    values = {key.removeprefix(PREFIX): labels[key] for key in labels if key.startswith(PREFIX)}
    if not values:
        return None
    encrypted = any(_asks_for_encryption(key, values[key]) for key in values)
    slips = sorted(values.keys() - {*KNOWN})
    meant = {nearest(key, KNOWN) for key in slips}  # what these say is not missing
    unknown = [_unknown(service, key, values.pop(key)) for key in slips]
    missing = None if {"port"} & {*values, *meant} else _infer_port(service, values, ports)
    problems = [*unknown, *([missing] if missing else [])]
    try:
        options = LabelOptions.model_validate(values)
    except ValidationError as error:
        problems += (
            problem
            for problem in _explained(service, values, error)
            if problem.label.removeprefix(PREFIX) in values.keys() | ({*KNOWN} - meant)
        )
        wrong = {str(each["loc"][0]) for each in error.errors() if each["loc"]}
        hosts = None if wrong & {"hosts"} & values.keys() or "hosts" in meant else _hosts(values)
        default = bool({"default_backend"} & {*values, *meant})
        return Declaration(None, tuple(problems), encrypted, hosts, default)
    problems += _not_served_yet(service, values, options)
    if options.backend_mode == "vip" and options.has_affinity:
        problems.append(_vip_with_affinity(service, values))
    fatal = any(problem.fatal for problem in problems)
    hosts = None if "hosts" in meant else frozenset(options.hosts)
    default = options.default_backend or "default_backend" in meant
    return Declaration(None if fatal else options, tuple(problems), encrypted, hosts, default)


def _hosts(values: Mapping[str, str]) -> frozenset[str]:
    """What a valid label says, as its options have it."""
    return frozenset(_HOSTS.validate_python(values["hosts"]) if "hosts" in values else ())


_HOSTS: TypeAdapter[tuple[str, ...]] = TypeAdapter(Hosts)


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
        remedy=f"docker service update --label-add {ours[0]}=... {service}",
    )


def _problem(
    service: str, label: str, value: str, reason: str, *, fatal: bool = False, remedy: str = ""
) -> Problem:
    name = label if label.isprintable() and label.isascii() and len(label) <= 80 else shown(label)
    quoted = shown(value) if value else ""
    return Problem(service, reason, name, quoted, remedy, fatal)


def _unknown(service: str, key: str, value: str) -> Problem:
    guess = nearest(key, KNOWN)
    hint = f"did you mean {PREFIX}{guess}?" if guess else f"known: {', '.join(KNOWN)}"
    reason = f"is not a known label ({hint})"
    remedy = f"docker service update --label-rm {shlex.quote(PREFIX + key)} "
    remedy += f"--label-add {PREFIX}{guess}={shlex.quote(value)} {service}" if guess else service
    # A command that is cut short or does not fit one line is not worth copying.
    remedy = remedy if remedy.isprintable() and len(remedy) <= 200 else ""
    return _problem(service, PREFIX + key, value, reason, fatal=True, remedy=remedy)


def _infer_port(service: str, values: dict[str, str], ports: Iterable[int]) -> Problem | None:
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
    remedy = f"docker service update --label-add {PREFIX}port={example} {service}"
    return _problem(service, PREFIX + "port", "", reason, fatal=True, remedy=remedy)


def _explained(
    service: str, values: Mapping[str, str], error: ValidationError
) -> Iterator[Problem]:
    for location, reason in explain(error, lambda _: KNOWN):
        key = str(location[0])
        change = f"--label-rm {PREFIX}{key}"  # then the default applies
        if key in _EXAMPLES:
            change = f"--label-add {PREFIX}{key}={_EXAMPLES[key].format(service=service)}"
        remedy = f"docker service update {change} {service}"
        yield _problem(
            service, PREFIX + key, values.get(key, ""), reason, fatal=True, remedy=remedy
        )


def _not_served_yet(
    service: str, values: Mapping[str, str], options: LabelOptions
) -> Iterator[Problem]:
    for key in KNOWN:
        if not key.startswith("ssl_") or not getattr(options, key):
            continue
        if key in _IN_THE_CLEAR:
            reason = "is not served yet: the service is not published, lest it be unencrypted"
        else:
            reason = "is not served yet: the service is published without TLS"
        yield _problem(service, PREFIX + key, values[key], reason, fatal=key in _IN_THE_CLEAR)


def _asks_for_encryption(key: str, text: str) -> bool:
    """True for anything but a plain "no": a typo must not send secrets in the clear."""
    if key not in KNOWN:
        return "ssl" in key.lower() or nearest(key, KNOWN) in _IN_THE_CLEAR
    try:
        return key in _IN_THE_CLEAR and boolean(text)
    except ValueError:
        return True


def _vip_with_affinity(service: str, values: Mapping[str, str]) -> Problem:
    return _problem(
        service,
        PREFIX + "backend_mode",
        values["backend_mode"],
        "has one upstream for all clients, so no session sticks: remove it or the affinity",
        remedy=f"docker service update --label-rm {PREFIX}backend_mode {service}",
    )
