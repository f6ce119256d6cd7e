"""``stickyproxy drain``, ``maintenance`` and ``undrain``: endpoints are emptied, and used again."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from urllib.parse import urlencode

from stickyproxy.base.errors import StickyproxyError
from stickyproxy.base.values import duration, duration_text
from stickyproxy.cli.common import Commands
from stickyproxy.cli.diagnosis import add_admin, admin_of, asked, refused, tls_of, token_of
from stickyproxy.config.load import load
from stickyproxy.config.settings import Config
from stickyproxy.control.report import Json

PATH = "/v1/admin_state"
LOOK_SECONDS = 1.0
"""How often it is seen what is left."""


def add(commands: Commands) -> None:
    """Add the commands to the command line."""
    target = (
        "TARGET is a service (demo), one of its endpoints (demo/3: its slot, or its number in the "
        "list of stickyproxy services; its address or its id) or a node (node:NAME). "
    )
    drain = commands.add_parser(
        "drain",
        help="let endpoints keep their sessions and get no new ones",
        description=f"{target}Its sessions stay, and new ones go elsewhere. Exit status 0: it is "
        "so, and with --wait it is empty; 1: it is not.",
    )
    maintenance = commands.add_parser(
        "maintenance",
        help="let endpoints get nothing; their sessions move",
        description=f"{target}Its sessions move to other endpoints. Exit status as for drain.",
    )
    undrain = commands.add_parser(
        "undrain",
        help="let endpoints get everything again",
        description=f"{target}What drain or maintenance said of it is withdrawn.",
    )
    for parser, state in ((drain, "drain"), (maintenance, "maintenance"), (undrain, "ready")):
        parser.add_argument("target", metavar="TARGET", help="service, service/endpoint, node:NAME")
        add_admin(parser, "change_token of [admin]", controllers=True)
        parser.add_argument("--json", action="store_true", help="for programs")
        parser.set_defaults(command=change, admin_state=state, wait=False)
    for parser in (drain, maintenance):
        parser.add_argument("--wait", action="store_true", help="until it is empty")
        parser.add_argument(
            "--timeout",
            metavar="DURATION",
            type=_duration,
            default=math.inf,
            help="the longest that is waited, e.g. 5m (default: for ever)",
        )
        parser.add_argument(
            "--idle",
            metavar="DURATION",
            type=_duration,
            default=60.0,
            help="a session is over when there was no request of it for so long (default: 1m)",
        )


def _duration(text: str) -> float:
    try:
        return duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def change(options: argparse.Namespace) -> int:
    """Run a command. Raises StickyproxyError if it is not done, or not empty in time."""
    settings = Config() if options.config is None else load(options.config)
    admin = admin_of(options, settings, controllers=True)
    body = {"target": options.target, "admin_state": options.admin_state}
    token = token_of(options, settings, changes=True)
    ask = partial(asked, token=token, tls=tls_of(admin, token))
    document = _of(ask(admin, "POST", PATH, body=body))
    for note in document["notes"]:
        print(f"warning: {note}", file=sys.stderr)
    if options.wait:
        if not document["counts"]:
            done = f"{document['target']}: {document['admin_state']}"
            raise StickyproxyError(
                f"{done}, but a controller cannot tell what is left: ask a proxy, with GET {PATH}"
            )
        document = _wait(partial(ask, admin, "GET"), document["target"], options)
    if options.json:
        print(json.dumps(document, indent=2))
    elif not options.wait:
        print(_summary(document))
        if document["endpoints"] and sys.stdout.isatty():
            from stickyproxy.cli import tables  # noqa: PLC0415 (rich takes its time)

            tables.show(tables.upkeep(document))
    return 0


def _wait(ask: Callable[[str], tuple[int, Json]], target: str, options: argparse.Namespace) -> Json:
    """Wait until nothing is left, and show meanwhile what is. Raises StickyproxyError if that takes
    too long."""
    until = time.monotonic() + options.timeout
    path = f"{PATH}?{urlencode({'target': target, 'idle': options.idle})}"
    said = ""
    while True:
        document = _of(ask(path))
        if (summary := _summary(document)) != said and not options.json:
            print(said := summary, flush=True)
        if all(each["empty"] for each in document["endpoints"]):
            return document
        rest = until - time.monotonic()
        if rest <= 0:
            waited = duration_text(options.timeout)
            raise StickyproxyError(f"after {waited} it is not empty: {summary}")
        time.sleep(min(LOOK_SECONDS, rest))


def _of(answer: tuple[int, Json]) -> Json:
    """The document, if all went well. Raises StickyproxyError."""
    status, document = answer
    if status != 200:
        raise refused(status, document.get("error") or f"the admin page answers {status}")
    return document


def _summary(document: Json) -> str:
    """One line."""
    endpoints = document["endpoints"]
    state, count = document["admin_state"], len(endpoints)
    who = f"{document['target']}: {state}, {count} endpoint{'' if count == 1 else 's'}"
    if state == "ready":
        wanted = sorted({each["admin_state"] for each in endpoints} - {"ready"})
        still = " and ".join(wanted)
        return f"{who} (but {still} is wanted by label or by another order)" if wanted else who
    if all(each["empty"] for each in endpoints):
        return f"{who}, empty"
    if not document["counts"]:
        return who
    known = [each for each in endpoints if each["sessions"] is not None]
    sessions, busy = sum(e["sessions"] for e in known), sum(e["busy"] for e in known)
    more = "" if len(known) == count else f" ({count - len(known)} not counted yet)"
    return f"{who}, {sessions} sessions seen, {busy} requests under way{more}"
