"""``stickyproxy demo-app``: one demo replica alone."""

from __future__ import annotations

import argparse
import asyncio
import os

from stickyproxy.base import signals
from stickyproxy.cli.common import Commands, run
from stickyproxy.demo.app import DemoOptions, DemoReplica


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "demo-app",
        help="one demo replica alone",
        description="Run one demo replica: /ping, /info and a page that shows which replica "
        "responds. It reads the environment variables VERSION, METADATA and TITLE.",
    )
    parser.add_argument(
        "--listen", metavar="ADDR", default=":8080", help="host:port to listen on (default: :8080)"
    )
    parser.add_argument("--instance", help="the name it answers with (default: the host name)")
    parser.add_argument("--no-cookie", action="store_true", help="set no session cookie")
    parser.set_defaults(command=demo_app)


def demo_app(options: argparse.Namespace) -> int:
    """Run the command."""
    demo_options = DemoOptions.from_environ(
        os.environ, instance=options.instance, sets_cookie=not options.no_cookie
    )
    return run(_demo_app_until_signalled(demo_options, options.listen))


async def _demo_app_until_signalled(options: DemoOptions, address: str) -> None:
    stop = asyncio.Event()
    signals.on_stop(stop)
    replica = await DemoReplica.start(options, address)
    print(f"demo replica {options.instance} is ready on http://{replica.address}", flush=True)
    await stop.wait()
    await replica.stop()
