"""``stickyproxy services``: what was found, and what is wrong with it."""

from __future__ import annotations

import argparse
import json
import sys

from stickyproxy.cli.common import Commands
from stickyproxy.cli.diagnosis import (
    add_admin,
    admin_of,
    engines,
    found_by_engine,
    found_by_proxy,
    token_of,
)
from stickyproxy.config.load import load
from stickyproxy.config.settings import Config
from stickyproxy.control import report

WRONG = 3
"""Exit status: a provider is out of touch, a service is held back, or a certificate is refused."""


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "services",
        help="what was found, and what is wrong with it",
        description="List services with their hosts, policy, endpoints, state and problems, as a "
        "running proxy sees them; or with --engine as a Docker engine lists them. Exit status 0: "
        "all is well, except for warnings; 1: nothing could be asked; 3: a provider is out of "
        "touch, a service is not published as declared, or a certificate is refused.",
    )
    add_admin(parser, "read_token or change_token of [admin]")
    parser.add_argument(
        "--engine",
        metavar="URL",
        nargs="?",
        const="",
        help="ask a Docker engine, not a proxy; by default that of the configuration, else that "
        "of $DOCKER_HOST, else the local one",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--quiet", action="store_true", help="print nothing: the exit status says it, for scripts"
    )
    parser.set_defaults(command=services)


def services(options: argparse.Namespace) -> int:
    """Run the command. Exit status 1 if nothing could be asked, WRONG if there are errors
    among what was found."""
    settings = Config() if options.config is None else load(options.config)
    if options.engine is not None:
        rows = found_by_engine(*engines(settings, options.engine))
    else:
        admin = admin_of(options, settings)
        rows = found_by_proxy(admin, token_of(options, settings))
    if not options.quiet and not options.json and sys.stdout.isatty():
        from stickyproxy.cli import tables  # noqa: PLC0415 (rich takes its time)

        tables.show(tables.services(rows))
    elif not options.quiet:
        print(json.dumps(rows, indent=2) if options.json else report.as_text(rows))
    return WRONG if report.has_errors(rows) else 0
