"""``stickyproxy check``: what a configuration file stands for, or what is wrong with it."""

from __future__ import annotations

import argparse
import sys

from stickyproxy.cli.common import Commands, add_config
from stickyproxy.config.load import load
from stickyproxy.control import report
from stickyproxy.control.registry import NoConnections
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.routing import builder
from stickyproxy.routing.endpoint import Endpoint


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "check",
        help="check a configuration file",
        description="Print the routing table that the file stands for, and warnings of what cannot "
        "have been meant; or every error in it (exit status 1).",
    )
    add_config(parser)
    parser.set_defaults(command=check)


def check(options: argparse.Namespace) -> int:
    """Run the command."""
    settings = load(options.config)
    print("listeners: " + ", ".join(str(listener.address) for listener in settings.listeners))
    print(builder.build(settings.services, _unconnected, None).dump())
    for problem in report.conflicts(settings.services):
        print(f"warning: {problem}", file=sys.stderr)
    return 0


def _unconnected(service: ServiceSpec, spec: EndpointSpec) -> Endpoint:
    return Endpoint(service.name, spec, b"", NoConnections(), service.tls)
