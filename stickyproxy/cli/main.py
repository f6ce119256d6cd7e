"""The command line. Exit status: 0 done, 1 it failed (a message says why), 2 wrong usage, 3 there
are errors among what was found (``services``)."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from stickyproxy.base import build_info, standard_error
from stickyproxy.base.errors import StickyproxyError
from stickyproxy.cli import (
    check,
    connector,
    controller,
    custodian,
    demo,
    demo_app,
    explain,
    hash_password,
    keeper,
    serve,
    services,
    simulate,
    top,
    upkeep,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    options = _parser().parse_args(arguments)
    standard_error.never_wait()
    logging.basicConfig(
        level=logging.DEBUG if os.environ.get("STICKYPROXY_DEBUG") else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    for library in ("docker", "urllib3"):  # or else every request to the engine is logged
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        return int(options.command(options))
    except StickyproxyError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
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
    for command in (
        serve,
        controller,
        connector,
        custodian,
        keeper,
        services,
        top,
        upkeep,
        explain,
        simulate,
        check,
        hash_password,
        demo,
        demo_app,
    ):
        command.add(commands)
    return parser
