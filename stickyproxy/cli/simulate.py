"""``stickyproxy simulate``: what a change of endpoints would do to sessions."""

from __future__ import annotations

import argparse
import json
import sys

from stickyproxy.cli.common import Commands
from stickyproxy.cli.explain import add_whom, ask
from stickyproxy.control import questions


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "simulate",
        help="how many sessions a change would move",
        description="Say how many sessions would move if endpoints were added or removed, from "
        "where to where, the load before and after, and how new sessions would be spread. The "
        "sessions are made up; nothing is changed, and nothing is sent to any endpoint.",
    )
    parser.add_argument(
        "--scale",
        metavar="SERVICE=N",
        type=_scale,
        action="append",
        default=[],
        help="the service has N endpoints then; may be repeated",
    )
    parser.add_argument(
        "--remove",
        metavar="ENDPOINT",
        action="append",
        default=[],
        help="the endpoint with this id or address is gone then; may be repeated",
    )
    parser.add_argument(
        "--weight",
        metavar="ENDPOINT=SHARE",
        type=_weight,
        action="append",
        default=[],
        help="the endpoint with this id or address gets this share of the new sessions that it "
        "would get otherwise, from 0.1 to 1, as while it warms up; may be repeated",
    )
    parser.add_argument(
        "--sessions",
        metavar="N",
        type=int,
        default=questions.SESSIONS,
        help=f"how many are made up (default: {questions.SESSIONS})",
    )
    add_whom(parser)
    parser.set_defaults(command=simulate)


def _scale(text: str) -> tuple[str, int]:
    name, _, count = text.rpartition("=")
    if not name or not (count.isascii() and count.isdecimal() and len(count) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is not a service and a number: write demo=10")
    return name, int(count)


def _weight(text: str) -> tuple[str, float]:
    name, _, share = text.rpartition("=")
    try:
        return name, float(name and share)
    except ValueError:
        wrong = f"{text!r} is not an endpoint and a share: write 127.0.0.1:9001=0.5"
        raise argparse.ArgumentTypeError(wrong) from None


def simulate(options: argparse.Namespace) -> int:
    """Run the command."""
    asked = {
        "scale": dict(options.scale),
        "remove": options.remove,
        "weight": dict(options.weight),
        "sessions": options.sessions,
    }
    said = ask(options, "simulate", asked)
    if not options.json and sys.stdout.isatty():
        from stickyproxy.cli import tables  # noqa: PLC0415 (rich takes its time)

        tables.show(tables.simulation(said))
    else:
        print(json.dumps(said, indent=2) if options.json else questions.simulation_as_text(said))
    return 0
