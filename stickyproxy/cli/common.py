"""What several commands need: arguments, and an event loop to run in."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import TypeAlias

import uvloop

from stickyproxy.base.addresses import Address

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""Where each command adds itself."""


def add_config(parser: argparse.ArgumentParser) -> None:
    """The option that names the configuration file, which the command cannot do without."""
    parser.add_argument(
        "--config", metavar="FILE", type=Path, required=True, help="the configuration, in TOML"
    )


def address(text: str) -> Address:
    """The type of an option that is an address."""
    try:
        return Address.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(main: Coroutine[object, object, None]) -> int:
    """Run to the end in an event loop of its own; returns the exit status."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)
    return 0
