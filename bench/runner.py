"""stickyproxy as the labs need it, in ways that no configuration file offers.

``swaps FILE N``: serve a configuration and replace the routing table N times a second. What
changes each time: one service that is under load gains or loses an endpoint, and so does one of
the others.

``rotates FILE SECONDS``: serve a configuration and replace the files of one certificate after the
other, one each so many seconds.

``tasks FILE``: publish services as the Swarm provider does, with endpoints that have an identity
of their own besides their address (``peers/stickyproxy-tasks.toml``); SIGHUP publishes anew.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
import tomllib
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from bench.certificates import write_certificate
from stickyproxy.base.addresses import Address
from stickyproxy.config.load import load
from stickyproxy.config.options import ServiceOptions
from stickyproxy.config.settings import Config
from stickyproxy.model.listener import ListenerSpec
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.settings import AccessLogSettings
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.runtime.app import App


async def swap(path: Path, swaps_per_second: float) -> None:
    """Serve; every other table has one endpoint less in the first service and in one other."""
    app = App(load(path))
    app.handle_signals()
    await app.start()
    swapping = asyncio.create_task(_keep_swapping(app, swaps_per_second), name="swapping")
    await app.run_until_signalled()
    swapping.cancel()


async def _keep_swapping(app: App, swaps_per_second: float) -> None:
    services = list(app.config.services)
    turn = 0
    while True:
        turn += 1
        changed = list(services)
        if turn % 2:
            for number in {0, turn % len(services)}:
                fewer = services[number].endpoints[:-1]
                changed[number] = replace(services[number], endpoints=fewer)
        app.registry.publish(Snapshot("static", tuple(changed)))
        await asyncio.sleep(1 / swaps_per_second)


async def rotate(path: Path, seconds: float) -> None:
    """Serve; the files of certificates are replaced in turn, but for the first."""
    several = [Path(table["cert"]) for table in _read(path)["certificates"]][1:]
    app = App.from_file(path)
    app.handle_signals()
    await app.start()
    rotating = asyncio.create_task(_keep_rotating(several, seconds), name="rotating")
    await app.run_until_signalled()
    rotating.cancel()


async def _keep_rotating(several: list[Path], seconds: float) -> None:
    for certificate in itertools.cycle(several):
        await asyncio.sleep(seconds)
        write_certificate(certificate.parent, [certificate.stem])


async def serve_tasks(path: Path) -> None:
    """Serve what the file says of tasks, and read it again on SIGHUP."""
    listen = int(_read(path)["listen"])
    app = App(
        replace(
            Config(),
            listeners=(ListenerSpec(Address("127.0.0.1", listen)),),
            access_log=AccessLogSettings(format="off"),
        )
    )

    def publish() -> None:
        app.registry.publish(Snapshot("swarm", tuple(_services(_read(path)))))

    publish()
    app.handle_signals()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, publish)
    await app.start()
    await app.run_until_signalled()


def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text())


def _services(document: dict[str, Any]) -> list[ServiceSpec]:
    return [_service(name, table) for name, table in document["services"].items()]


def _service(name: str, table: dict[str, Any]) -> ServiceSpec:
    told = ("endpoints", "coming")
    options = ServiceOptions.model_validate(
        {key: value for key, value in table.items() if key not in told}
    )
    endpoints = itertools.starmap(_endpoint, table["endpoints"].items())
    return replace(options.spec(name, endpoints), coming=tuple(table.get("coming", ())))


def _endpoint(name: str, place: str) -> EndpointSpec:
    slot, _, address = place.rpartition("@")
    return EndpointSpec(name, address, slot=slot)


def main() -> None:
    kind, path, *rest = sys.argv[1:]
    serve: Coroutine[object, object, None]
    if kind == "tasks":
        serve = serve_tasks(Path(path))
    else:
        serve = (swap if kind == "swaps" else rotate)(Path(path), float(rest[0]))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve)


if __name__ == "__main__":
    main()
