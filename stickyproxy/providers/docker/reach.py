"""At which address a container is reached: pure.

From a container: on the network that its label names, else on one that both are on. From the
engine's machine, or from afar: at the port that it publishes, or on the network that its label
names.
"""

from __future__ import annotations

from ipaddress import ip_address

from stickyproxy.base.addresses import join_host_port
from stickyproxy.model.snapshot import Problem
from stickyproxy.providers.docker.state import Attachment, Container, ContainersState
from stickyproxy.providers.engine.hints import LabelChange
from stickyproxy.providers.engine.labels import PREFIX, LabelOptions

_LABEL = f"{PREFIX}network"


def relabel(service: str, change: LabelChange) -> str:
    """What to do for a container to get other labels: they cannot be changed in place."""
    added = ", ".join(f"{label}={value}" for label, value in change.add)
    removed = ", ".join(change.remove)
    if added and removed:
        what = f"write {added} in place of the label {removed}"
    elif added:
        what = f"set the label {added}"
    else:
        what = f"remove the label {removed}"
    return f"{what}, then {_anew(service)}"


def _anew(service: str) -> str:
    project, slash, name = service.partition("/")
    if slash:
        return f"docker compose -p {project} up -d {name}"
    return f"docker rm -f {service} and docker run it again"


def address_of(
    container: Container, options: LabelOptions, state: ContainersState
) -> str | Problem | None:
    """Where it is reached; a Problem if it cannot be; None if it has no address at the moment."""
    port = options.port or 0
    attachment: Attachment | Problem | None = None
    if options.network is not None:
        attachment = _named(container, options.network)
    elif state.own is not None:
        attachment = _shared(container, state.own)
    if isinstance(attachment, Problem):
        return attachment
    if attachment is None:
        return _published(container, port, state)
    if state.own is not None and not _is_on(state.own, attachment.network):
        reason = f'cannot be reached: the proxy is not on its network "{attachment.name}"'
        remedy = f"docker network connect {attachment.name} {state.own.name}"
        return Problem(container.service, reason, remedy=remedy)
    return join_host_port(attachment.address, port) if attachment.address else None


def _named(container: Container, network: str) -> Attachment | Problem:
    """Its attachment to the network of the label; compose puts the project's name before."""
    project, slash, _ = container.service.partition("/")
    meant = {network, f"{project}_{network}"} if slash else {network}
    for each in container.attachments:
        if meant & {each.name, each.network}:
            return each
    names = ", ".join(each.name for each in container.attachments)
    reason = f'the container is not on a network "{network}"'
    reason += f": write one of {names}" if names else ", nor on any other"
    first = next((each.name for each in container.attachments), "")
    service = container.service
    correction = LabelChange(add=((_LABEL, first),))
    remedy = relabel(service, correction) if first else _networks_of(service)
    return Problem(service, reason, _LABEL, f'"{network}"', remedy)


def _shared(container: Container, own: Container) -> Attachment | Problem:
    for each in container.attachments:
        if _is_on(own, each.network):
            return each
    service = container.service
    if container.on_host_network:
        reason = (
            "is on the network of the machine, where a proxy in a container does not reach it: "
            "give it another, or the proxy the same"
        )
        return Problem(service, reason, remedy=_networks_of(service))
    if not container.attachments:
        reason = "is on no network of its own, where the proxy could reach it"
        return Problem(service, reason, remedy=_networks_of(service))
    network = container.attachments[0].name
    reason = f'cannot be reached: the proxy is not on its network "{network}"'
    return Problem(service, reason, remedy=f"docker network connect {network} {own.name}")


def _networks_of(service: str) -> str:
    return f"give it a network (networks:, --network), then {_anew(service)}"


def _is_on(container: Container, network: str) -> bool:
    return any(each.network == network for each in container.attachments)


def _published(container: Container, port: int, state: ContainersState) -> str | Problem:
    """The port on the machine that leads to ``port``: IPv4 first, which every engine has."""
    if container.on_host_network:
        return join_host_port(state.machine, port)
    found = [each for each in container.ports if each.target == port and each.published]
    service = container.service
    if not found:
        reason = (
            f"publishes port {port} nowhere, and only a proxy in a container reaches it without: "
            "publish it, or run the proxy in a container on one of its networks"
        )
        remedy = f'set ports: ["127.0.0.1::{port}"], then {_anew(service)}'
        return Problem(service, reason, remedy=remedy)
    is_near = _is_loopback(state.machine)
    for each in sorted(found, key=lambda each: (":" in each.address, each.published)):
        if each.address in ("", "0.0.0.0", "::"):  # noqa: S104
            return join_host_port(state.machine, each.published)
        if is_near or not _is_loopback(each.address):
            return join_host_port(each.address, each.published)
    reason = f"publishes port {port} on a loopback address only, which is the other machine's own"
    return Problem(service, reason, remedy=f'set ports: ["{port}"], then {_anew(service)}')


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
