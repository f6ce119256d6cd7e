"""``stickyproxy explain``: what would come of a request, and why."""

from __future__ import annotations

import argparse
import json
import sys

from stickyproxy.base.errors import StickyproxyError
from stickyproxy.cli import curl
from stickyproxy.cli.common import Commands
from stickyproxy.cli.diagnosis import (
    TableOf,
    add_admin,
    admin_of,
    answered_by_proxy,
    engines,
    in_file,
    listed,
    token_of,
)
from stickyproxy.config.load import load
from stickyproxy.config.settings import Config
from stickyproxy.control import questions
from stickyproxy.control.questions import Questions
from stickyproxy.control.report import Json
from stickyproxy.runtime.app import explainer


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "explain",
        help="what would come of a request, and why",
        description="Say which route and endpoint a request would get and why, what its cookies "
        "mean, and what would happen if the endpoint died. Nothing is sent to any endpoint. Exit "
        "status 0: the question was answered; 1: nothing could be asked.",
    )
    parser.add_argument("url", metavar="URL", nargs="?", help="such as demo.local/path?query")
    parser.add_argument(
        "--curl", metavar="COMMAND", help="a curl command instead; -: it is in the standard input"
    )
    parser.add_argument(
        "--header",
        "-H",
        metavar="LINE",
        action="append",
        default=[],
        help="a header field, such as 'Host: demo.local'; may be repeated",
    )
    parser.add_argument(
        "--cookie",
        "-b",
        metavar="PAIRS",
        action="append",
        default=[],
        help="cookies, such as 'session=abc'; may be repeated",
    )
    parser.add_argument(
        "--body",
        metavar="BYTES",
        type=int,
        help="how long its body is (default: as in --curl, or 0)",
    )
    parser.add_argument("--method", "-X", help="the method (default: GET, or that of --curl)")
    parser.add_argument(
        "--client",
        metavar="ADDR",
        default="127.0.0.1",
        help="the address that it comes from (default: 127.0.0.1)",
    )
    add_whom(parser)
    parser.set_defaults(command=explain)


def add_whom(parser: argparse.ArgumentParser) -> None:
    """The options that say whom to ask."""
    add_admin(parser, "read_token or change_token of [admin]")
    parser.add_argument(
        "--offline",
        action="store_true",
        help="ask no proxy: answer by the services in the file that --config names",
    )
    parser.add_argument(
        "--engine",
        metavar="URL",
        nargs="?",
        const="",
        help="ask no proxy: answer by what a Docker engine lists, as for stickyproxy services",
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def explain(options: argparse.Namespace) -> int:
    """Run the command."""
    said = ask(options, "explain", _question(options))
    if not options.json and sys.stdout.isatty():
        from stickyproxy.cli import tables  # noqa: PLC0415 (rich takes its time)

        tables.show(tables.explanation(said))
    else:
        print(json.dumps(said, indent=2) if options.json else questions.as_text(said))
    return 0


def ask(options: argparse.Namespace, kind: str, asked: Json) -> Json:
    """The answer of whom ``add_whom`` says. Raises StickyproxyError."""
    if options.offline and options.config is None:
        raise StickyproxyError("--offline needs the file whose services count: add --config FILE")
    settings = Config() if options.config is None else load(options.config)
    if not options.offline and options.engine is None:
        admin = admin_of(options, settings)
        return answered_by_proxy(admin, kind, asked, token_of(options, settings))
    snapshots = [in_file(settings.services)]
    if options.engine is not None:
        snapshots += listed(*engines(settings, options.engine))
    shown = TableOf(snapshots, settings.proxy.pin_secret)
    answers = Questions(lambda: shown.table, explainer(settings))
    try:
        answer: Json = getattr(answers, kind)(asked)
    except ValueError as error:
        raise StickyproxyError(str(error)) from error
    return answer


def _question(options: argparse.Namespace) -> Json:
    """Raises StickyproxyError."""
    added = [_field(line) for line in options.header]
    added += [["Cookie", pairs] for pairs in options.cookie]
    if (options.curl is None) == (options.url is None):
        raise StickyproxyError("what is asked about? Give a URL, or a curl command with --curl")
    if options.curl is None:
        asked = curl.of_url(options.url, added)
    else:
        asked = curl.question(sys.stdin.read() if options.curl == "-" else options.curl)
        asked["headers"] += added
    if options.method is not None:
        asked["method"] = options.method
    if options.body is not None:
        asked["body"] = options.body
    return {**asked, "client": options.client}


def _field(line: str) -> list[str]:
    name, colon, value = line.partition(":")
    if not colon:
        raise StickyproxyError(f"{line!r} is no header field: write 'Name: value'")
    return [name.strip(), value.strip()]
