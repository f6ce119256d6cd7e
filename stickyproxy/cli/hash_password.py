"""``stickyproxy hash-password``: a user for ``basic_auth``."""

from __future__ import annotations

import argparse
import getpass
import sys

from stickyproxy.base.errors import StickyproxyError
from stickyproxy.base.passwords import PasswordHash
from stickyproxy.cli.common import Commands


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "hash-password",
        help="make a user for basic_auth",
        description="Print a name and the hash of a password, as basic_auth wants them. The "
        "password is asked for, or read from standard input.",
    )
    parser.add_argument("name", metavar="NAME", help="the name of the user")
    parser.set_defaults(command=hash_password)


def hash_password(options: argparse.Namespace) -> int:
    """Run the command."""
    if not options.name or ":" in options.name or not options.name.isprintable():
        raise StickyproxyError(f"{options.name!r} is no name: it may hold no colon")
    asked = sys.stdin.isatty()
    password = getpass.getpass() if asked else sys.stdin.readline().removesuffix("\n")
    if not password:
        raise StickyproxyError("the password is empty: write one")
    print(f"{options.name}:{PasswordHash.make(password.encode())}")
    return 0
