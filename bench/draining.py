"""stickyproxy with draining endpoints, as the rolling lab needs it:
``python -m bench.draining FILE``. SIGHUP publishes the file again.

What may go to an endpoint that is being stopped is what the lab compares: the values of the option
``drain``, and sending again what was never read, which is tried out here:

    sticky   a stopping endpoint keeps its sessions and gets no new ones
    safe     it keeps them for idempotent requests; others go elsewhere and are pinned anew
    none     it gets nothing as long as there is another
    resend   besides: a request of any method is sent again if TCP shows that its endpoint did not
             read all of it (``ShownUnread``)
    leaving  resend only if the endpoint is known to be stopping, or refuses a new connection
"""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from stickyproxy.base.addresses import Address, split_host_port
from stickyproxy.base.errors import UpstreamClosed
from stickyproxy.config.settings import Config
from stickyproxy.dataplane import exchange, retry
from stickyproxy.dataplane.upstream import connection, pool
from stickyproxy.model.listener import ListenerSpec
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.settings import AccessLogSettings
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.routing.balancers import make_policy
from stickyproxy.routing.endpoint import EndpointState
from stickyproxy.runtime import data_plane
from stickyproxy.runtime.app import App

_UNACKED = 24
"""Where tcpi_unacked stands in Linux's struct tcp_info."""


class ShownUnread(connection.UpstreamConnection):
    """Knows whether its endpoint read the whole of the latest request before it closed.

    Linux resets a connection that was not accepted, or is closed with unread bytes; a FIN comes
    if all that had arrived was read. What arrives after a FIN is not acknowledged but reset.
    """

    unread = False

    def eof_received(self) -> bool:
        peer: socket.socket = self.transport.get_extra_info("socket")
        info = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        failed = peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self.unread = bool(failed or struct.unpack_from("I", info, _UNACKED)[0])
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.unread = self.unread or isinstance(exc, ConnectionResetError | BrokenPipeError)
        super().connection_lost(exc)


class Unread(UpstreamClosed):
    """The connection ended, and TCP shows that the endpoint did not read all of the request."""


class ResendingExchange(exchange.Exchange):
    """Sends again what was not read."""

    __slots__ = ()

    only_if_leaving = False

    def _try_again(self, error: Exception, started: float) -> None:
        super()._try_again(Unread(str(error)) if self._may_resend(error) else error, started)

    def _may_resend(self, error: Exception) -> bool:
        lost = self._upstream
        return (
            isinstance(error, UpstreamClosed)
            and isinstance(lost, ShownUnread)
            and lost.unread
            and not self._body_sent
            and (not self.only_if_leaving or self._is_leaving())
        )

    def _is_leaving(self) -> bool:
        assert self.pick is not None
        if self.pick.endpoint.state is not EndpointState.USABLE:
            return True
        host, port = split_host_port(self.pick.endpoint.address)
        try:
            # On loopback this takes microseconds; a proxy must not block.
            socket.create_connection((host, port), 0.05).close()
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return False


def decide(attempt: retry.Attempted) -> retry.Verdict:
    """What was not read has not been carried out either."""
    unread = isinstance(attempt.error, Unread)
    return retry.decide(replace(attempt, replayable=attempt.replayable or unread))


async def serve(path: Path) -> None:
    """Until SIGTERM."""
    document = _read(path)
    app = App(
        replace(
            Config(),
            listeners=(ListenerSpec(Address("127.0.0.1", document["listen"])),),
            access_log=AccessLogSettings(format="off"),
        )
    )

    def publish() -> None:
        app.registry.publish(_snapshot(_read(path)))

    publish()
    app.handle_signals()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, publish)
    await app.start()
    await app.run_until_signalled()


def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text())


def _snapshot(document: dict[str, Any]) -> Snapshot:
    draining = set(document["draining"])
    endpoints = [
        EndpointSpec(task, address, draining=task in draining)
        for task, address in document["endpoints"].items()
    ]
    service = ServiceSpec(
        name="bench",
        hosts=("bench.test",),
        endpoints=tuple(endpoints),
        drain=document["drain"],
        policy=make_policy({"context_root": "/", "sticky_session_cookie": "session"}),
    )
    return Snapshot("swarm", (service,))


def main() -> None:
    path = Path(sys.argv[1])
    document = _read(path)
    ResendingExchange.only_if_leaving = document.get("leaving", False)
    if document["resend"]:
        pool.UpstreamConnection = ShownUnread  # type: ignore[attr-defined]
        data_plane.Exchange = ResendingExchange  # type: ignore[attr-defined]
        exchange.decide = decide  # type: ignore[attr-defined]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(path))


if __name__ == "__main__":
    main()
