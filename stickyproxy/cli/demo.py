"""``stickyproxy demo``: the proxy in front of demo replicas."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from stickyproxy.base.addresses import Address
from stickyproxy.base.errors import ListenError
from stickyproxy.cli.common import Commands, run
from stickyproxy.config.settings import Config
from stickyproxy.demo.app import DemoOptions, DemoReplica
from stickyproxy.model.listener import ListenerSpec
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.settings import AccessLogSettings
from stickyproxy.routing.balancers import make_policy
from stickyproxy.runtime.app import App

DEMO_HOST = "demo.local"
DEMO_POLICIES: dict[str, dict[str, Any]] = {
    "cookie": {"sticky_session_cookie": "session"},
    "ip_hash": {"ip_hash": True},
    "consistent_hash": {"hash_cookie": "session", "hash_cookie_ttl": 60.0},
    "round_robin": {},
}


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
        "--replicas", type=_replicas, default=5, help="number of demo replicas (default: 5)"
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
    parser.set_defaults(command=demo)


def _port(text: str) -> int:
    if text.isdecimal() and 0 <= int(text) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port: write a number from 1 to 65535")


def _replicas(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= 100:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 100")


def demo(options: argparse.Namespace) -> int:
    """Run the command."""
    return run(
        _demo_until_signalled(
            port=options.port,
            replicas=options.replicas,
            policy=options.policy,
            sets_cookie=not options.no_cookie,
        )
    )


async def _demo_until_signalled(
    *, port: int, replicas: int, policy: str, sets_cookie: bool
) -> None:
    running: list[DemoReplica] = []
    try:
        for number in range(1, replicas + 1):
            options = DemoOptions.from_environ(
                os.environ, instance=f"demo-{number}", sets_cookie=sets_cookie
            )
            running.append(await DemoReplica.start(options))
        addresses = [replica.address for replica in running]
        app = App(_demo_config(port, policy, addresses))
        app.handle_signals()
        try:
            bound = await app.start()
        except ListenError as error:
            raise ListenError(f"{error} (stickyproxy demo --port PORT)") from error
        print(_demo_text(bound[0], addresses, policy), flush=True)
        await app.run_until_signalled()
    finally:
        for replica in running:
            await replica.stop()


def _demo_config(port: int, policy: str, addresses: Sequence[str]) -> Config:
    service = ServiceSpec(
        name="demo",
        hosts=(DEMO_HOST,),
        endpoints=tuple(EndpointSpec(id=address, address=address) for address in addresses),
        default_backend=True,  # so that a browser may open the bare address
    )
    options = {"context_root": service.context_root, **DEMO_POLICIES[policy]}
    settings = Config(
        listeners=(ListenerSpec(Address("127.0.0.1", port)),),
        access_log=AccessLogSettings(format="off"),
        services=(replace(service, policy=make_policy(options)),),
    )
    return replace(settings, proxy=replace(settings.proxy, grace_period=1.0))


def _demo_text(address: str, replicas: Sequence[str], policy: str) -> str:
    lines = [
        f"stickyproxy is ready on http://{address}, host {DEMO_HOST}, policy {policy}, "
        f"{len(replicas)} replicas ({', '.join(replicas)}).",
        "",
        *_demo_commands(f'-H "Host: {DEMO_HOST}" http://{address}/ping', policy),
        f"Or watch it: open http://{address}/ in a browser.",
        "",
        "Ctrl-C ends it.",
    ]
    return "\n".join(lines)


def _demo_commands(request: str, policy: str) -> list[str]:
    jar = "-c cookie.txt -b cookie.txt"
    if policy == "round_robin":
        return [
            "The replicas take turns, whoever the client is (look at x-upstream-addr):",
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
