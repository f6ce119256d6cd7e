"""``stickyproxy demo``: the proxy in front of demo replicas, which stop and start as its user types
so."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from stickyproxy.base.addresses import Address
from stickyproxy.base.errors import ListenError
from stickyproxy.cli.common import Commands, run
from stickyproxy.config.settings import Config
from stickyproxy.demo.app import DemoOptions, DemoReplica
from stickyproxy.model.health import Checks
from stickyproxy.model.listener import ListenerSpec
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.settings import AccessLogSettings
from stickyproxy.routing.balancers import make_policy
from stickyproxy.runtime.app import App
from stickyproxy.runtime.supervisor import Supervisor

DEMO_HOST = "demo.local"
DEMO_POLICIES: dict[str, dict[str, Any]] = {
    "cookie": {"sticky_session_cookie": "session"},
    "ip_hash": {"ip_hash": True},
    "consistent_hash": {"hash_cookie": "session", "hash_cookie_ttl": 60.0},
    "round_robin": {},
}
DEMO_ADMIN_PORT = 8081
DEMO_CHECKS = Checks(path="/ping", interval=0.2, timeout=1.0, rise=1, fall=1)
"""So that the page shows within a second what is typed here."""

_ORDER = re.compile(r"(stop|start) +(?:demo-)?([0-9]{1,3})")


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "demo",
        help="the proxy in front of demo replicas, in one command",
        description="Run the proxy on 127.0.0.1 in front of demo replicas, and print what to "
        "type to see sticky sessions.",
    )
    parser.add_argument(
        "--port", type=_port, default=8080, help="port of the proxy (default: 8080)"
    )
    parser.add_argument(
        "--admin-port",
        type=_port,
        help=f"port of the live page (default: {DEMO_ADMIN_PORT}; any free one with --port 0)",
    )
    parser.add_argument(
        "--replicas",
        type=partial(_count, 100),
        default=5,
        help="number of demo replicas (default: 5)",
    )
    parser.add_argument(
        "--policy",
        choices=DEMO_POLICIES,
        default="cookie",
        help="how a client keeps reaching one replica (default: cookie)",
    )
    parser.add_argument(
        "--no-cookie", action="store_true", help="replicas set no session cookie of their own"
    )
    parser.add_argument(
        "--workers", type=partial(_count, 64), default=1, help="processes of the proxy (default: 1)"
    )
    parser.set_defaults(command=demo)


def _port(text: str) -> int:
    if text.isdecimal() and 0 <= int(text) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port: write a number from 1 to 65535")


def _count(most: int, text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= most:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {most}")


def demo(options: argparse.Namespace) -> int:
    """Run the command."""
    return run(_demo_until_signalled(options))


async def _demo_until_signalled(options: argparse.Namespace) -> None:
    admin_port = options.admin_port
    if admin_port is None:
        admin_port = DEMO_ADMIN_PORT if options.port else 0
    replicas = DemoReplicas(options.replicas, sets_cookie=not options.no_cookie)
    try:
        addresses = await replicas.start_all()
        config = _demo_config(options.port, admin_port, options.policy, addresses)
        several = options.workers > 1
        app = Supervisor(config, None, options.workers) if several else App(config)
        app.handle_signals()
        try:
            bound = await app.start()
        except ListenError as error:
            option = "--admin-port" if f":{admin_port}: " in str(error) else "--port"
            raise ListenError(f"{error} (stickyproxy demo {option} PORT)") from error
        print(_demo_text(bound[0], app.admin_address, addresses, options.policy), flush=True)
        obeying = asyncio.create_task(replicas.obey(_typed_lines()), name="demo replicas obey")
        await app.run_until_signalled()
        obeying.cancel()
    finally:
        await replicas.stop_all()


class DemoReplicas:
    """The replicas of the demo, each with an address of its own for good."""

    def __init__(self, count: int, *, sets_cookie: bool) -> None:
        self._options = [
            DemoOptions.from_environ(os.environ, instance=f"demo-{number}", sets_cookie=sets_cookie)
            for number in range(1, count + 1)
        ]
        self._addresses: list[str] = []
        self._running: dict[int, DemoReplica] = {}

    async def start_all(self) -> Sequence[str]:
        """Their addresses. Raises ListenError."""
        for number, options in enumerate(self._options, 1):
            self._running[number] = await DemoReplica.start(options)
            self._addresses.append(self._running[number].address)
        return self._addresses

    async def stop_all(self) -> None:
        """Those that are running."""
        while self._running:
            await self._running.popitem()[1].stop()

    async def obey(self, lines: asyncio.Queue[str]) -> None:
        """Do what is typed, and say what has been done; until cancelled."""
        while True:
            print(await self.do(await lines.get()), flush=True)

    async def do(self, line: str) -> str:
        """Stop or start one; what has come of it, as a sentence."""
        order = _ORDER.fullmatch(line.strip().lower())
        if order is None:
            return "Type stop 3, or start 3: the number of a replica."
        verb, number = order[1], int(order[2])
        if not 1 <= number <= len(self._options):
            return f"There is no replica {number}: they are 1 to {len(self._options)}."
        options = self._options[number - 1]
        replica = self._running.get(number)
        if verb == "stop":
            if replica is None:
                return f"{options.instance} is not running."
            del self._running[number]
            await replica.stop()
            return f"{options.instance} is stopped."
        if replica is not None:
            return f"{options.instance} is running."
        try:
            self._running[number] = await DemoReplica.start(options, self._addresses[number - 1])
        except ListenError as error:
            return str(error)
        return f"{options.instance} is running again."


def _typed_lines() -> asyncio.Queue[str]:
    """What is typed, line by line, until there is no more of it."""
    lines: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def put(line: str) -> None:
        loop.call_soon_threadsafe(lines.put_nowait, line)

    # In the background of a shell a read would stop the whole process; so it fails.
    signal.signal(signal.SIGTTIN, signal.SIG_IGN)
    # A thread, because a regular file cannot be waited for; a daemon, because nothing ends a read.
    threading.Thread(target=_read, args=(put,), name="typed lines", daemon=True).start()
    return lines


def _read(put: Callable[[str], object]) -> None:
    rest = b""
    try:
        # Not sys.stdin: at the end of the program nobody must hold its lock
        while data := os.read(0, 4096):
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                put(line.decode("utf-8", "replace"))
            rest = rest[-100:]
    except (OSError, RuntimeError):  # in the background, or the loop has ended
        return


def _demo_config(port: int, admin_port: int, policy: str, addresses: Sequence[str]) -> Config:
    service = ServiceSpec(
        name="demo",
        hosts=(DEMO_HOST,),
        endpoints=tuple(EndpointSpec(id=address, address=address) for address in addresses),
        default_backend=True,  # so that a browser may open the bare address
        checks=DEMO_CHECKS,
    )
    options = {"context_root": service.context_root, **DEMO_POLICIES[policy]}
    settings = Config(
        listeners=(ListenerSpec(Address("127.0.0.1", port)),),
        admin=Address("127.0.0.1", admin_port),
        access_log=AccessLogSettings(format="off"),
        services=(replace(service, policy=make_policy(options)),),
    )
    return replace(settings, proxy=replace(settings.proxy, grace_period=1.0))


def _demo_text(address: str, admin: str, replicas: Sequence[str], policy: str) -> str:
    lines = [
        f"stickyproxy is ready on http://{address}, host {DEMO_HOST}, policy {policy}, "
        f"{len(replicas)} replicas ({', '.join(replicas)}).",
        "",
        *_demo_commands(f'-H "Host: {DEMO_HOST}" http://{address}/ping', policy),
        f"Or watch it: open http://{address}/ in a browser, and the proxy's live page beside it:",
        f"  http://{admin}/    (in a terminal: stickyproxy top --admin {admin})",
        "",
        "Type stop 3 here, and that replica stops; start 3, and it is there again.",
        "Ctrl-C ends it.",
    ]
    return "\n".join(lines)


def _demo_commands(request: str, policy: str) -> list[str]:
    jar = "-c cookie.txt -b cookie.txt"
    if policy == "round_robin":
        return [
            "The replicas take turns, for every client alike (look at x-upstream-addr):",
            f"  for i in $(seq 10); do curl -s {request}; done",
        ]
    if policy == "ip_hash":
        return [
            "One client address, one replica, without any cookie (look at x-upstream-addr):",
            f"  curl -vs {request}",
            "Other addresses reach other replicas:",
            f"  for i in $(seq 10); do curl -s --interface 127.0.0.$i {request}; done",
        ]
    return [
        "One session, one replica, from the first response on (look at x-upstream-addr):",
        f"  curl -vs {jar} {request}",
        "Twenty requests of that session:",
        f"  for i in $(seq 20); do curl -s {jar} {request}; done",
        "Without a cookie jar every request is a new session, and reaches any replica:",
        f"  for i in $(seq 10); do curl -s {request}; done",
    ]
