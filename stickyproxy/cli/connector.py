"""``stickyproxy connector``, which ``__main__`` runs without loading any of this."""

from __future__ import annotations

import argparse

from stickyproxy.cli.common import Commands
from stickyproxy.connector import server


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "connector",
        help="open connections on a network for the proxies on this node",
        description="Open TCP connections on the network that this container is on, for the "
        "proxies that share a directory with it, and hand them over. Proxies in a Swarm create "
        "services of this by themselves.",
    )
    parser.add_argument("--network", metavar="NAME", required=True, help="what it is asked for by")
    parser.add_argument(
        "--directory", metavar="DIR", required=True, help="where it has its socket, NAME.sock"
    )
    parser.add_argument(
        "--grace",
        metavar="SECONDS",
        default="30",
        help="how long connections may go on after SIGTERM (default: 30)",
    )
    parser.add_argument("--ping", action="store_true", help="ask the one that runs there")
    parser.set_defaults(command=connector)


def connector(options: argparse.Namespace) -> int:
    """Run the command."""
    where = ["--network", options.network, "--directory", options.directory]
    ping = ["--ping"] if options.ping else []
    return server.main([*where, "--grace", options.grace, *ping])
