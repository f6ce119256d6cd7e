"""``stickyproxy top``: in a pseudo-terminal, and what it draws."""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from stickyproxy.cli.keys import Wish, keys_in, wished
from stickyproxy.cli.screen import bar, duration, number, screen, span, sparkline, whole
from stickyproxy.cli.watch import Glance, Seen, events_in
from tests.admin.live.fixture import Fixture, endpoint, many, problem, service
from tests.cli.test_main import TIMEOUT, StartProgram, programs

CURSOR_HOME = "\x1b[H"
"""With which each screen begins (ECMA-48, CUP)."""


@pytest.fixture
async def fixture() -> AsyncIterator[Fixture]:
    """An admin listener that says what it is told to."""
    made = Fixture()
    await made.start()
    yield made
    await made.stop()


class Terminal:
    """A pseudo-terminal that ``stickyproxy top`` runs in."""

    def __init__(self, lines: int = 30, columns: int = 130) -> None:
        self.fd, self.other = pty.openpty()
        self.resize(lines, columns)
        self.text = ""
        self._decoded = 0
        self._raw = b""
        self._news = asyncio.Event()
        asyncio.get_running_loop().add_reader(self.fd, self._on_output)

    def _on_output(self) -> None:
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # nobody has the other end any more
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self.fd)
        self._raw += data
        self.text = self._raw.decode("utf-8", "replace")
        self._news.set()

    @property
    def screen(self) -> str:
        """What is on it, without colours. A screen is drawn whole."""
        whole = self.text.rpartition(CURSOR_HOME)[2]
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", whole)

    def resize(self, lines: int, columns: int) -> None:
        """As a window does."""
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: str) -> None:
        """Press them."""
        os.write(self.fd, keys.encode())

    async def until(self, condition: Callable[[str], object]) -> None:
        """Wait until the screen is like this."""
        try:
            async with asyncio.timeout(TIMEOUT):
                while not condition(self.screen):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"waited in vain; the screen is\n{self.screen}") from None

    async def shows(self, text: str) -> None:
        """Wait until it does."""
        await self.until(lambda screen: text in screen)


@asynccontextmanager
async def in_terminal(
    *arguments: str, lines: int = 30, columns: int = 130, term: str = "xterm-256color"
) -> AsyncIterator[tuple[Terminal, asyncio.subprocess.Process]]:
    """``stickyproxy top``; it is killed if it has not ended by itself."""
    terminal = Terminal(lines, columns)
    environ = {name: os.environ[name] for name in os.environ if name not in ("COLUMNS", "LINES")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stickyproxy", "top", *arguments),
        stdin=terminal.other,
        stdout=terminal.other,
        stderr=terminal.other,
        env=environ | {"TERM": term},
        preexec_fn=partial(_take, terminal.other),
    )
    try:
        yield terminal, process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        asyncio.get_running_loop().remove_reader(terminal.fd)
        os.close(terminal.other)
        os.close(terminal.fd)


def _take(terminal: int) -> None:
    """Let it be the controlling terminal, so that Ctrl-C and a new size are signals."""
    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


async def ended(process: asyncio.subprocess.Process) -> int:
    """Its exit status."""
    async with asyncio.timeout(TIMEOUT):
        return await process.wait()


def admin(fixture: Fixture) -> tuple[str, str]:
    """The option that names it."""
    return "--admin", f"127.0.0.1:{fixture.port}"


class TestInATerminal:
    async def test_is_live_and_ends_as_it_began(self, fixture: Fixture) -> None:
        async with in_terminal(*admin(fixture)) as (terminal, process):
            before = termios.tcgetattr(terminal.other)
            await terminal.shows("3 of 3 in use")
            await terminal.shows("10.0.0.2:8000")
            fixture.services[0]["endpoints"][1] |= {"state": "down", "why": "status 503"}
            await terminal.shows("2 of 3 in use")
            await terminal.shows("status 503")
            await fixture.until(lambda: fixture.streams > 0)
            fixture.tell("demo/2 is back", "endpoint-back")
            await terminal.shows("demo/2 is back")
            assert termios.tcgetattr(terminal.other)[3] & termios.ECHO == 0
            terminal.type("q")
            assert await ended(process) == 0
            assert termios.tcgetattr(terminal.other) == before
            assert terminal.text.count("\x1b[?1049h") == terminal.text.count("\x1b[?1049l") == 1
            assert terminal.text.rstrip().endswith("\x1b[?25h"), "the cursor is back"

    async def test_keys(self, fixture: Fixture) -> None:
        fixture.services = many(40, 2)
        async with in_terminal(*admin(fixture)) as (terminal, process):
            await terminal.shows("service-1 ")
            assert "service-30 " not in terminal.screen
            terminal.type("\x1b[F")  # End
            await terminal.shows("service-40 ")
            terminal.type("g")
            await terminal.shows("service-1 ")
            terminal.type("e")
            await terminal.until(lambda screen: "10.0.1.1" not in screen)
            terminal.type("/service-33")
            await terminal.shows("search: service-33")
            terminal.type("\r")
            await terminal.until(lambda s: "service-33 " in s and "service-1 " not in s)
            terminal.type("\x1b")
            await terminal.shows("service-1 ")
            terminal.type("s")
            await terminal.shows("by requests")
            terminal.type("\x03")
            assert await ended(process) == 130

    async def test_another_size(self, fixture: Fixture) -> None:
        async with in_terminal(*admin(fixture), lines=12, columns=60) as (terminal, process):
            await terminal.shows("3 of 3")
            assert all(len(line) <= 60 for line in terminal.screen.splitlines())
            assert "BUSY" not in terminal.screen
            terminal.resize(40, 140)
            await terminal.shows("BUSY")
            terminal.type("q")
            assert await ended(process) == 0

    async def test_lost_and_back(self, fixture: Fixture) -> None:
        async with in_terminal(*admin(fixture)) as (terminal, process):
            await terminal.shows("3 of 3 in use")
            await fixture.stop()
            await terminal.shows("no answer")
            await terminal.shows("3 of 3 in use")
            fixture.services[0]["endpoints"].pop()
            await fixture.start()
            await terminal.shows("2 of 2 in use")
            await terminal.until(lambda screen: "no answer" not in screen)
            process.terminate()
            assert await ended(process) == 128 + signal.SIGTERM
            assert termios.tcgetattr(terminal.other)[3] & termios.ECHO

    async def test_names_do_nothing_to_the_terminal(self, fixture: Fixture) -> None:
        hostile = "x\x1b]0;HACKED\x07\x1b[2J\x9b2J[bold]\u202e"
        fixture.services = [service(hostile, endpoint(address=hostile, why=hostile, node=hostile))]
        fixture.problems = [problem(hostile, reason=hostile, remedy=hostile)]
        async with in_terminal(*admin(fixture), columns=300) as (terminal, process):
            await terminal.shows(r"x\x1b]0;HACKED\x07\x1b[2J\x9b2J[bold]\u202e")
            await fixture.until(lambda: fixture.streams > 0)
            fixture.tell(hostile)
            await terminal.shows(r" x\x1b]0;HACKED")
            terminal.type("q")
            assert await ended(process) == 0
            assert "\x1b]0" not in terminal.text
            assert "\x1b[2J" not in terminal.text.replace("\x1b[2J\x1b[H", "")
            assert "\x9b" not in terminal.text

    async def test_one_that_cannot_be_drawn_on(self, fixture: Fixture) -> None:
        async with in_terminal(*admin(fixture), term="dumb") as (terminal, process):
            assert await ended(process) == 1
            await terminal.shows("use --once, or --json")


class TestElsewhere:
    @pytest.fixture
    async def start(self) -> AsyncIterator[StartProgram]:
        """Starts programs."""
        async with programs() as start:
            yield start

    async def test_once(self, fixture: Fixture, start: StartProgram) -> None:
        program = await start("top", *admin(fixture))
        assert await program.ended() == 0, program.err.text
        assert "3 of 3 in use" in program.out.text
        assert "10.0.0.3:8000" in program.out.text
        assert "\x1b" not in program.out.text

    async def test_once_where_nobody_asked_before(
        self, start: StartProgram, tmp_path: Path
    ) -> None:
        """Figures are known a second after somebody has asked, and are waited for."""
        config = tmp_path / "config.toml"
        config.write_text(
            '[[listeners]]\naddress = "127.0.0.1:0"\n[proxy]\nworkers = 1\n'
            '[admin]\naddress = "127.0.0.1:0"\n'
            '[[services]]\nname = "shop"\nhosts = ["shop.local"]\n'
            'endpoints = ["127.0.0.1:9"]\n'
        )
        proxy = await start("serve", "--config", config)
        port = (await proxy.err.says(r"its live page: http://127\.0\.0\.1:(\d+)/$"))[1]
        program = await start("top", "--json", "--admin", f"127.0.0.1:{port}")
        assert await program.ended() == 0, program.err.text
        [shop] = json.loads(program.out.text)["services"]
        assert shop["figures"]["in_flight"] == 0
        await proxy.stop()

    async def test_json(self, fixture: Fixture, start: StartProgram) -> None:
        fixture.problems = [problem()]
        program = await start("top", "--json", *admin(fixture))
        assert await program.ended() == 0, program.err.text
        found = json.loads(program.out.text)
        assert found["services"] == fixture.services
        assert found["problems"] == fixture.problems
        assert found["status"]["version"] == "9.9"

    async def test_takes_a_token(
        self, fixture: Fixture, start: StartProgram, tmp_path: Path
    ) -> None:
        fixture.read_token = "look"
        program = await start("top", *admin(fixture))
        assert await program.ended() == 1
        assert "the token is missing or wrong (--token-file FILE, or" in program.err.text
        file = tmp_path / "token"
        file.write_text("look\n")
        program = await start("top", *admin(fixture), "--token-file", file)
        assert await program.ended() == 0, program.err.text
        config = tmp_path / "config.toml"
        config.write_text(
            '[[listeners]]\naddress = "127.0.0.1:0"\n'
            f'[admin]\naddress = "127.0.0.1:{fixture.port}"\nread_token_file = "{file}"\n'
        )
        program = await start("top", "--config", config)
        assert await program.ended() == 0, program.err.text
        program = await start("top", *admin(fixture), "--token-file", tmp_path / "none")
        assert await program.ended() == 1
        assert "cannot be read" in program.err.text

    async def test_nobody_answers(self, fixture: Fixture, start: StartProgram) -> None:
        await fixture.stop()
        program = await start("top", *admin(fixture))
        assert await program.ended() == 1
        assert "enable the [admin] table" in program.err.text


# --- what is drawn -------------------------------------------------------------------------------


def drawn(look: Glance, wish: Wish | None = None, width: int = 120, height: int = 30) -> str:
    """The screen, as text."""
    console = Console(file=io.StringIO(), width=width, height=height, markup=False)
    seen = Seen(look=look)
    shown, _ = screen(seen, wish or Wish(), width, height)
    with console.capture() as capture:
        console.print(shown)
    return capture.get()


def a_look(*services: dict[str, object], problems: int = 0) -> Glance:
    return Glance(list(services), {}, [problem() for _ in range(problems)])


class TestScreen:
    @pytest.mark.parametrize("width", [40, 80, 120, 200])
    @pytest.mark.parametrize("height", [12, 24, 60])
    def test_fits(self, width: int, height: int) -> None:
        for problems in (0, 9):
            look = a_look(*many(20), problems=problems)
            seen = Seen(look=look)
            seen.events.extend({"event": "endpoint-back", "text": "e" * 500} for _ in range(99))
            console = Console(file=io.StringIO(), width=width, height=height)
            shown, _ = screen(seen, Wish(), width, height)
            with console.capture() as capture:
                console.print(shown)
            lines = capture.get().splitlines()
            assert max(map(len, lines)) <= width
            assert len(lines) <= height

    def test_what_nobody_counts(self) -> None:
        text = drawn(a_look(service(figures=None), service("b", endpoint(figures=None))))
        assert "3 of 3 in use" in text
        assert "0 req/s" in text

    def test_more_than_fits_is_said_and_reached(self) -> None:
        look = a_look(*many(30, 1))
        assert re.search(r"\d+ more below", drawn(look))
        _, wish = screen(Seen(look=look), Wish(top=10_000), 120, 30)
        assert wish.top < 60
        assert "service-30 " in drawn(look, wish)

    def test_only_in_trouble(self) -> None:
        sound, out = service("sound"), service("out", endpoint(state="down"))
        drained = service("drained", endpoint(state="draining", admin_state="drain"))
        text = drawn(a_look(sound, out, drained), Wish(trouble=True))
        assert "out.local" in text
        assert "sound.local" not in text
        assert "drained.local" not in text

    def test_whole(self) -> None:
        console = Console(file=io.StringIO(), width=120)
        with console.capture() as capture:
            console.print(whole(a_look(*many(60, 2), problems=7), 120))
        assert capture.get().count("docker service update") == 7
        assert "service-60 " in capture.get()

    def test_numbers(self) -> None:
        assert [number(each) for each in (None, 0, 0.01, 3, 3.14, 250.7, 12_345, 123_456, 2e6)] == [
            *("-", "0", "<0.1", "3", "3.1", "251", "12.3k", "123k", "2.0M")
        ]
        assert [duration(each) for each in (None, 0.0004, 0.0123, 1.26)] == [
            *("-", "0.4 ms", "12 ms", "1.3 s")
        ]
        assert [span(each) for each in (5, 61, 7300, 200_000)] == ["5 s", "1 min", "2 h", "2 d"]
        assert [len(bar(part)) for part in (-1.0, 0.0, 0.5, 1.0, 2.0)] == [0, 0, 8, 16, 16]
        assert sparkline([]) == ""
        assert sparkline([0.0, 1.0, 2.0]) == "▁▅█"


class TestKeys:
    def test_names(self) -> None:
        typed = "a\x1b[A\x1b[5~üq\x1b[99~".encode()
        assert list(keys_in(typed)) == ["a", "up", "page up", "ü", "q"]
        assert list(keys_in(b"\x1b")) == ["\x1b"]

    def test_search(self) -> None:
        wish: Wish | None = Wish(top=7)
        for key in "/qs\x7fx\r":
            assert wish is not None
            wish = wished(wish, key, 30)
        assert wish == Wish(search="qx")
        assert wished(Wish(typing=True, search="x"), "\x1b", 30) == Wish()
        assert wished(Wish(search="x", trouble=True), "\x1b", 30) == Wish()

    def test_the_list(self) -> None:
        assert wished(Wish(top=3), "up", 30) == Wish(top=2)
        assert wished(Wish(top=3), "page up", 30) == Wish()
        assert wished(Wish(), "page down", 30) == Wish(top=15)
        assert wished(Wish(), "s", 30) == Wish(order="requests")
        assert wished(Wish(order="sessions"), "s", 30) == Wish()
        assert wished(Wish(), "?", 30) == Wish()
        assert wished(Wish(), "q", 30) is None


class TestEvents:
    def test_as_they_are_sent(self) -> None:
        lines = (
            b": hello\r\n\r\n"
            b'id: 7\nevent: endpoint-back\ndata: {"text": "a",\ndata:"n": 1}\n\n'
            b"retry: 5\n\n"
            b"data: [1]\n\n"
            b'data: {"text": "b"}\n\n'
            b'data: {"text": "cut'
        )
        assert list(events_in(io.BytesIO(lines))) == [
            {"text": "a", "n": 1, "stream id": "7"},
            {"text": "b", "stream id": "7"},
        ]
