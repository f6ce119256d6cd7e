"""``stickyproxy check``: what a configuration file stands for, or what is wrong with it."""

from __future__ import annotations

import argparse

from stickyproxy.cli.common import Commands, add_config
from stickyproxy.config.load import load
from stickyproxy.control.registry import NoConnections
from stickyproxy.model.service import EndpointSpec
from stickyproxy.routing import builder
from stickyproxy.routing.endpoint import Endpoint


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "check",
        help="check a configuration file",
        description="Print the routing table that the file stands for, or every error in it "
        "(exit status 1).",
    )
    add_config(parser)
    parser.set_defaults(command=check)


def check(options: argparse.Namespace) -> int:
    """Run the command."""
    settings = load(options.config)
    print("listeners: " + ", ".join(str(listener.address) for listener in settings.listeners))
    print(builder.build(settings.services, _unconnected, None).dump())
    return 0


def _unconnected(service: str, spec: EndpointSpec) -> Endpoint:
    return Endpoint(service, spec, b"", NoConnections())
