"""What an engine says of its containers, and where the proxy is among them: pure.

The dicts are those of the Docker Engine API (1.30 and later): ``GET /containers/json``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Json = dict[str, Any]
Health = Literal["", "starting", "unhealthy"]

_PROJECT = "com.docker.compose.project"
_SERVICE = "com.docker.compose.service"
_NUMBER = "com.docker.compose.container-number"
_ONE_OFF = "com.docker.compose.oneoff"
_TASK = "com.docker.swarm.task.id"


@dataclass(frozen=True, slots=True)
class Attachment:
    """A container on a network."""

    network: str
    """Id of the network."""
    name: str
    """Name of the network."""
    address: str
    """Of the container there; empty: it has none now."""


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """A TCP port that the image exposes or the container publishes."""

    target: int
    """In the container."""
    published: int = 0
    """On the engine's machine; 0: nowhere."""
    address: str = ""
    """The one of that machine that it is published on."""


@dataclass(frozen=True, slots=True)
class Container:
    """One container, as far as it matters here."""

    id: str
    name: str
    service: str
    """What it is a replica of: ``PROJECT/SERVICE`` of compose, else its own name."""
    created: int
    """Seconds since the epoch."""
    labels: Mapping[str, str]
    running: bool
    health: Health = ""
    """Empty: healthy, or nobody checks."""
    attachments: tuple[Attachment, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    on_host_network: bool = False


@dataclass(frozen=True, slots=True)
class ContainersState:
    """All that an engine lists of its containers at one moment."""

    realm: str
    """The id of the engine."""
    containers: tuple[Container, ...]
    own: Container | None = None
    """The one this process runs in, if it has networks of its own; None: this process is where
    published ports are reached."""
    machine: str = "127.0.0.1"
    """Where those ports are."""


def containers_in(
    listed: Iterable[Json], starting: Collection[str], unhealthy: Collection[str]
) -> tuple[Container, ...]:
    """The containers of a listing, by id. ``starting`` and ``unhealthy`` are ids."""
    found = []
    for each in listed:
        identity = str(each["Id"])
        health: Health = (
            "starting" if identity in starting else "unhealthy" if identity in unhealthy else ""
        )
        found.append(_container(each, health))
    return tuple(sorted(found, key=lambda container: container.id))


def is_replica(container: Container) -> bool:
    """False for the task of a Swarm, whose labels are those of its service, and for what somebody
    started with ``docker compose run``."""
    marks = container.labels
    return _TASK not in marks and marks.get(_ONE_OFF, "").lower() != "true"


def number_of(container: Container) -> str:
    """Which one of its service it is, as compose counts them; empty: nobody does."""
    return container.labels.get(_NUMBER, "")


def _container(found: Json, health: Health) -> Container:
    marks = found.get("Labels") or {}
    name = str((found.get("Names") or [found["Id"][:12]])[0]).strip("/")
    composed = _PROJECT in marks and _SERVICE in marks
    attached = (found.get("NetworkSettings") or {}).get("Networks") or {}
    return Container(
        id=str(found["Id"]),
        name=name,
        service=f"{marks[_PROJECT]}/{marks[_SERVICE]}" if composed else name,
        created=int(found.get("Created", 0)),
        labels=marks,
        running=found.get("State") == "running",
        health=health,
        attachments=tuple(
            Attachment(str(each.get("NetworkID", "")), network, _address(each))
            for network, each in sorted(attached.items())
        ),
        ports=tuple(
            PublishedPort(int(each["PrivatePort"]), int(each.get("PublicPort") or 0), _ip(each))
            for each in sorted(found.get("Ports") or (), key=str)
            if each.get("Type", "tcp") == "tcp"
        ),
        on_host_network=(found.get("HostConfig") or {}).get("NetworkMode") == "host",
    )


def _address(attachment: Json) -> str:
    return str(attachment.get("IPAddress") or attachment.get("GlobalIPv6Address") or "")


def _ip(port: Json) -> str:
    return str(port.get("IP") or "")
