"""The command line. Exit status: 0 done, 1 it failed (a message says why), 2 wrong usage."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from stickyproxy.base import build_info
from stickyproxy.base.addresses import Address
from stickyproxy.base.errors import ListenError, StickyproxyError
from stickyproxy.cli.diagnosis import found_by_engine, found_by_proxy
from stickyproxy.config import load as config
from stickyproxy.config.load import Config, Listener, SwarmSettings
from stickyproxy.connector import server as connector
from stickyproxy.control import report
from stickyproxy.demo.app import DemoOptions, DemoReplica
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.settings import AccessLogSettings
from stickyproxy.routing import table
from stickyproxy.routing.endpoint import Endpoint
from stickyproxy.runtime import supervisor
from stickyproxy.runtime.app import App, ControllerApp

DEMO_HOST = "demo.local"
DEMO_POLICIES: dict[str, dict[str, Any]] = {
    "cookie": {"sticky_session_cookie": "session"},
    "ip_hash": {"ip_hash": True},
    "consistent_hash": {"hash_cookie": "session", "hash_cookie_ttl": 60.0},
    "round_robin": {},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if os.environ.get("STICKYPROXY_DEBUG") else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    for library in ("docker", "urllib3"):  # every request of the engine's listing, else
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        return int(options.command(options))
    except StickyproxyError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # who reads our output, like head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stickyproxy",
        description="HTTP load balancer for Docker Swarm with sticky sessions that are right.",
        epilog="Try it: stickyproxy demo. Then: stickyproxy serve --config config.toml, with "
        "config.example.toml as the documentation of every key.",
    )
    parser.add_argument("--version", action="version", version=build_info.server_info())
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    serve = commands.add_parser(
        "serve",
        help="run the proxy",
        description="Run the proxy. SIGHUP, or a change of the file, reloads the services; "
        "SIGTERM and SIGINT let requests under way finish and end it; a second one ends it at "
        "once.",
    )
    _add_config(serve)
    serve.set_defaults(command=_serve)

    controller = commands.add_parser(
        "controller",
        help="find services for proxies elsewhere",
        description="Watch the Swarm and tell the proxies that follow it, by the url in their "
        "[providers.controller]. It carries no traffic, and they need no Docker socket.",
    )
    _add_config(controller)
    controller.set_defaults(command=_controller)

    opener = commands.add_parser(
        "connector",
        help="open connections on a network for the proxies on this node",
        description="Open TCP connections on the network that this container is on, for the "
        "proxies that share a directory with it, and hand them over. Proxies in a Swarm create "
        "services of this by themselves.",
    )
    opener.add_argument("--network", metavar="NAME", required=True, help="what it is asked for by")
    opener.add_argument(
        "--directory", metavar="DIR", required=True, help="where it has its socket, NAME.sock"
    )
    opener.add_argument(
        "--grace",
        metavar="SECONDS",
        default="30",
        help="how long connections may go on after SIGTERM (default: 30)",
    )
    opener.add_argument("--ping", action="store_true", help="ask the one that runs there")
    opener.set_defaults(command=_connector)

    services = commands.add_parser(
        "services",
        help="what was found, and what is wrong with it",
        description="List services with their hosts, policy, endpoints, state and problems, as a "
        "running proxy sees them; or with --engine as a Docker engine lists them.",
    )
    services.add_argument(
        "--config", metavar="FILE", type=Path, help="the configuration that names [admin] address"
    )
    services.add_argument(
        "--admin",
        metavar="ADDR",
        type=_address,
        help=f"where the proxy's admin page listens (default: {config.ADMIN_ADDRESS})",
    )
    services.add_argument(
        "--engine",
        metavar="URL",
        nargs="?",
        const="",
        help="ask a Docker engine, not a proxy; by default that of the configuration, else that "
        "of $DOCKER_HOST, else the local one",
    )
    services.add_argument("--json", action="store_true", help="for programs")
    services.set_defaults(command=_services)

    check = commands.add_parser(
        "check",
        help="check a configuration file",
        description="Print the routing table that the file stands for, or every error in it "
        "(exit status 1).",
    )
    _add_config(check)
    check.set_defaults(command=_check)

    demo = commands.add_parser(
        "demo",
        help="the proxy in front of demo replicas, in one command",
        description="Run the proxy on 127.0.0.1 in front of demo replicas, and print what to "
        "type to see sticky sessions.",
    )
    demo.add_argument("--port", type=_port, default=8080, help="port of the proxy (default: 8080)")
    demo.add_argument(
        "--replicas", type=_replicas, default=5, help="number of demo replicas (default: 5)"
    )
    demo.add_argument(
        "--policy",
        choices=DEMO_POLICIES,
        default="cookie",
        help="how a client keeps reaching one replica (default: cookie)",
    )
    demo.add_argument(
        "--no-cookie", action="store_true", help="replicas set no session cookie of their own"
    )
    demo.set_defaults(command=_demo)

    demo_app = commands.add_parser(
        "demo-app",
        help="one demo replica alone",
        description="Run one demo replica: /ping, /info and a page that shows which replica "
        "answers. The environment variables VERSION, METADATA and TITLE serve.",
    )
    demo_app.add_argument(
        "--listen", metavar="ADDR", default=":8080", help="host:port to listen on (default: :8080)"
    )
    demo_app.add_argument("--instance", help="the name it answers with (default: the host name)")
    demo_app.add_argument("--no-cookie", action="store_true", help="set no session cookie")
    demo_app.set_defaults(command=_demo_app)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", metavar="FILE", type=Path, required=True, help="the configuration, in TOML"
    )


def _port(text: str) -> int:
    if text.isdecimal() and 0 <= int(text) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port: write a number from 1 to 65535")


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _replicas(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= 100:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 100")


def _run(main_coroutine: Coroutine[object, object, None]) -> int:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main_coroutine)
    return 0


# --- serve and check ------------------------------------------------------------------------


def _serve(options: argparse.Namespace) -> int:
    # A reload that comes before there is anything to reload must not end the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return _run(_serve_until_signalled(options.config))


async def _serve_until_signalled(path: Path) -> None:
    app = supervisor.from_file(path)
    app.handle_signals()
    addresses = await app.start()
    logging.getLogger("stickyproxy").info(
        "%s, services: %d, serves on %s",
        build_info.server_info(),
        sum(len(snapshot.services) for snapshot in app.registry.snapshots()),
        ", ".join(addresses),
    )
    await app.run_until_signalled()


def _check(options: argparse.Namespace) -> int:
    settings = config.load(options.config)
    print("listeners: " + ", ".join(str(listener.address) for listener in settings.listeners))
    print(table.build(settings.services, _unconnected, None).dump())
    return 0


class _NoConnections:
    def close(self) -> None:
        """There are none."""


def _unconnected(service: str, spec: EndpointSpec) -> Endpoint:
    return Endpoint(service, spec, b"", _NoConnections())


# --- the Swarm ------------------------------------------------------------------------------


def _controller(options: argparse.Namespace) -> int:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return _run(_control_until_signalled(ControllerApp(config.load(options.config))))


async def _control_until_signalled(app: ControllerApp) -> None:
    app.handle_signals()
    address = await app.start()
    logging.getLogger("stickyproxy").info("%s controls from %s", build_info.server_info(), address)
    await app.run_until_signalled()


def _connector(options: argparse.Namespace) -> int:
    """As without this parser: see ``__main__``."""
    where = ["--network", options.network, "--directory", options.directory]
    ping = ["--ping"] if options.ping else []
    return connector.main([*where, "--grace", options.grace, *ping])


def _services(options: argparse.Namespace) -> int:
    """Exit status 1 if nobody could be asked; problems of services are its output."""
    settings = Config() if options.config is None else config.load(options.config)
    if options.engine is not None:
        engine = settings.swarm or SwarmSettings()
        if settings.swarm is None and "DOCKER_HOST" in os.environ:
            engine = replace(engine, endpoint=os.environ["DOCKER_HOST"])
        rows = found_by_engine(replace(engine, endpoint=options.engine or engine.endpoint))
    else:
        rows = found_by_proxy(options.admin or settings.admin or config.ADMIN_ADDRESS)
    print(json.dumps(rows, indent=2) if options.json else report.as_text(rows))
    return 0


# --- the demo -------------------------------------------------------------------------------


def _demo(options: argparse.Namespace) -> int:
    return _run(
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
    settings = Config(
        listeners=(Listener(Address("127.0.0.1", port)),),
        access_log=AccessLogSettings(format="off"),
        services=(replace(service, **DEMO_POLICIES[policy]),),
    )
    return replace(settings, proxy=replace(settings.proxy, grace_period=1.0))


def _demo_text(address: str, replicas: Sequence[str], policy: str) -> str:
    lines = [
        f"stickyproxy is ready on http://{address}, host {DEMO_HOST}, policy {policy}, "
        f"{len(replicas)} replicas ({', '.join(replicas)}).",
        "",
        *_demo_commands(f'-H "Host: {DEMO_HOST}" http://{address}/ping', policy),
        f"Or see it: open http://{address}/ in a browser.",
        "",
        "Ctrl-C ends it.",
    ]
    return "\n".join(lines)


def _demo_commands(request: str, policy: str) -> list[str]:
    jar = "-c cookie.txt -b cookie.txt"
    if policy == "round_robin":
        return [
            "The replicas take turns, whoever asks (look at x-upstream-addr):",
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
        "One session, one replica, from the first answer on (look at x-upstream-addr):",
        f"  curl -vs {jar} {request}",
        "Twenty requests of that session:",
        f"  for i in $(seq 20); do curl -s {jar} {request}; done",
        "Without a cookie jar every request is a new session, and reaches any replica:",
        f"  for i in $(seq 10); do curl -s {request}; done",
    ]


def _demo_app(options: argparse.Namespace) -> int:
    demo_options = DemoOptions.from_environ(
        os.environ, instance=options.instance, sets_cookie=not options.no_cookie
    )
    return _run(_demo_app_until_signalled(demo_options, options.listen))


async def _demo_app_until_signalled(options: DemoOptions, address: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    replica = await DemoReplica.start(options, address)
    print(f"demo replica {options.instance} is ready on http://{replica.address}", flush=True)
    await stop.wait()
    await replica.stop()
