"""``stickyproxy keeper``: what opens listeners for proxies that come and go.

The program is ``handover.keeper``, to which ``__main__`` goes without this parser.
"""

from __future__ import annotations

import argparse

from stickyproxy.cli.common import Commands
from stickyproxy.handover import keeper


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser("keeper", help=keeper.HELP, description=keeper.DESCRIPTION)
    keeper.add_options(parser)
    parser.set_defaults(command=keep)


def keep(options: argparse.Namespace) -> int:
    """Run the command."""
    return keeper.run(options.socket, options.patience)
