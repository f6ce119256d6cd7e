"""``stickyproxy top``: the live page in a terminal."""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from stickyproxy.base.errors import StickyproxyError
from stickyproxy.cli.common import Commands
from stickyproxy.cli.diagnosis import add_admin, admin_of, tls_of, token_of
from stickyproxy.cli.keys import Wish, keys_in, wished
from stickyproxy.cli.watch import Watcher
from stickyproxy.config.load import load
from stickyproxy.config.settings import Config

PAPER = 120
"""Cells in a line where no terminal says how many there are."""


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "top",
        help="services, endpoints, figures, events and problems of a running proxy, live",
        description="Show what a running proxy does, as its live page does in a browser: q ends "
        "it, / searches. Where the output is no terminal it is shown once.",
    )
    add_admin(parser, "read_token or change_token of [admin]", controllers=True)
    parser.add_argument("--once", action="store_true", help="show it once, and end")
    parser.add_argument("--json", action="store_true", help="the same for programs")
    parser.set_defaults(command=top)


def top(options: argparse.Namespace) -> int:
    """Run the command. Raises StickyproxyError."""
    # It takes its time, which no other command needs.
    from rich.console import Console  # noqa: PLC0415
    from rich.control import Control  # noqa: PLC0415

    from stickyproxy.cli import screen  # noqa: PLC0415

    settings = Config() if options.config is None else load(options.config)
    admin = admin_of(options, settings, controllers=True)
    token = token_of(options, settings)
    tls = tls_of(admin, token)
    console = Console(highlight=False, markup=False, emoji=False)
    if options.json or options.once or not (sys.stdin.isatty() and sys.stdout.isatty()):
        look = Watcher(admin, token, tls, lambda: None).look_once()
        if options.json:
            document = {
                "status": look.status,
                "services": look.services,
                "problems": look.problems,
            }
            print(json.dumps(document, indent=2))
        else:
            if not console.is_terminal and "COLUMNS" not in os.environ:
                console.width = PAPER
            console.print(screen.whole(look, console.width))
        return 0
    if console.is_dumb_terminal:
        raise StickyproxyError(
            "this terminal cannot be drawn on (TERM is not set, or says so): use --once, or --json"
        )
    with _raw_terminal(), console.screen(hide_cursor=True) as shown:
        wish = Wish()
        bell = _Bell()
        watcher = Watcher(admin, token, tls, bell.ring)
        watcher.start()
        signal.signal(signal.SIGWINCH, lambda *_: bell.ring())
        while True:
            width, height = console.size
            drawn, wish = screen.screen(watcher.seen, wish, width, height)
            with console:  # at once, so that nothing flickers
                console.control(Control.home())
                shown.update(drawn)
            pressed = bell.wait()
            for key in keys_in(pressed):
                changed = wished(wish, key, height)
                if changed is None:
                    return 0
                wish = changed


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Keys come one by one and do not show. A terminal is left as it was, however this ends."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    ends = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        for number in ends:
            signal.signal(number, _end)
        tty.setcbreak(terminal)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        for number, handler in ends.items():
            signal.signal(number, handler)


def _end(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


class _Bell:
    """Waits for keys, and for whatever else happens."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        os.set_blocking(self._read, False)

    def ring(self) -> None:
        """End the wait; from any thread."""
        try:
            os.write(self._write, b"!")
        except BlockingIOError:
            return  # it rings already

    def wait(self) -> bytes:
        """What was typed; empty: something else has happened. Raises KeyboardInterrupt if there is
        nobody any more who could type."""
        ready, _, _ = select.select([sys.stdin, self._read], [], [])
        if self._read in ready:
            os.read(self._read, 4096)
        if sys.stdin not in ready:
            return b""
        typed = os.read(sys.stdin.fileno(), 1024)
        if not typed:
            raise KeyboardInterrupt
        return typed
