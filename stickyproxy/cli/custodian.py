"""``stickyproxy custodian``, to which ``__main__`` goes without this parser."""

from __future__ import annotations

import argparse

from stickyproxy.cli.common import Commands
from stickyproxy.custodian import program


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser("custodian", help=program.HELP, description=program.DESCRIPTION)
    parser.add_argument("--show", metavar="NAME", nargs="+", help=program.SHOW_HELP)
    parser.set_defaults(command=custodian)


def custodian(options: argparse.Namespace) -> int:
    """Run the command."""
    return program.hold() if options.show is None else program.show(options.show)
