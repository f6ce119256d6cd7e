"""Lines over real pipes and files, with readers that are slow, gone or asleep."""

from __future__ import annotations

import errno
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from fcntl import F_GETPIPE_SZ, fcntl
from pathlib import Path

import pytest

from stickyproxy.base.line_writer import LIMIT, LineWriter, whole_lines

Caplog = pytest.LogCaptureFixture


class Pipe:
    """A pipe, its writer, and its reader, who may sleep."""

    def __init__(self, *, limit: int = LIMIT, on_full: Callable[[], object] = lambda: None) -> None:
        self.read_end, write_end = os.pipe()
        self.write_end = os.dup(write_end)  # stays when the writer closes its own
        self.writer = LineWriter(write_end, "log", owned=True, limit=limit, on_full=on_full)
        self.received = b""
        self._reader: threading.Thread | None = None

    def read(self, size: int) -> None:
        """Take so many bytes at most."""
        self.received += os.read(self.read_end, size)

    def start_reading(self) -> None:
        """Take all that comes from now on."""
        self._reader = threading.Thread(target=self._read, name="reader")
        self._reader.start()

    def lines(self) -> list[bytes]:
        """What was read, at the end."""
        with suppress(OSError):
            os.close(self.write_end)
        if self._reader is None:
            self._read()
        else:
            self._reader.join()
        assert self.received.endswith(b"\n") or not self.received
        return self.received.split(b"\n")[:-1]

    def _read(self) -> None:
        while data := os.read(self.read_end, 65536):
            self.received += data

    def close(self) -> None:
        """Give everything back."""
        for fd in (self.read_end, self.write_end):
            with suppress(OSError):
                os.close(fd)


def line(number: int) -> bytes:
    """One of many, about 40 bytes long."""
    return b"%07d %s\n" % (number, b"x" * (number % 64))


def told(caplog: Caplog) -> int:
    """How many lines the log says were lost."""
    counts = re.findall(r"(\d+) lines? of .* lost", caplog.text)
    return sum(map(int, counts))


@pytest.fixture
def pipes() -> Iterator[Callable[..., Pipe]]:
    """Makes pipes."""
    made: list[Pipe] = []

    def make(*, limit: int = LIMIT, on_full: Callable[[], object] = lambda: None) -> Pipe:
        made.append(Pipe(limit=limit, on_full=on_full))
        return made[-1]

    yield make
    for pipe in made:
        pipe.close()


MakePipe = Callable[..., Pipe]


class TestReader:
    def test_who_reads_gets_all_in_order(self, pipes: MakePipe, caplog: Caplog) -> None:
        pipe = pipes()
        pipe.start_reading()
        for number in range(1000):
            pipe.writer.write(line(number))
        assert pipe.writer.close(60)
        assert pipe.lines() == [line(number)[:-1] for number in range(1000)]
        assert caplog.text == ""

    def test_who_sleeps_costs_lines_and_no_time(self, pipes: MakePipe, caplog: Caplog) -> None:
        """What has room is kept, what comes later is counted; both are the whole."""
        full: list[bool] = []
        pipe = pipes(limit=50_000, on_full=lambda: full.append(True))
        for number in range(10_000):
            pipe.writer.write(line(number))
        assert full
        pipe.start_reading()
        assert pipe.writer.close(60)
        lines = pipe.lines()
        numbers = [int(each[:7]) for each in lines]
        assert lines == [line(number)[:-1] for number in sorted(set(numbers))]
        assert len(lines) + told(caplog) == 10_000
        assert told(caplog) > 5000
        assert "lost: nobody reads it, or not fast enough" in caplog.text

    def test_lost_lines_are_told_of_when_there_is_room_again(
        self, pipes: MakePipe, caplog: Caplog
    ) -> None:
        """And what comes then is written."""
        pipe = pipes(limit=50_000)
        filling = b"\n" * fcntl(pipe.write_end, F_GETPIPE_SZ)
        os.write(pipe.write_end, filling)
        for number in range(10_000):
            pipe.writer.write(line(number))
        assert told(caplog) == 0
        while not told(caplog):
            pipe.read(4096)
        lost = told(caplog)
        pipe.start_reading()
        pipe.writer.write(b"later\n")
        assert pipe.writer.close(60)
        lines = pipe.lines()[len(filling) :]
        kept = 10_000 - lost
        assert lines == [*(line(number)[:-1] for number in range(kept)), b"later"]
        assert told(caplog) == lost

    def test_who_is_slow_gets_whole_lines(self, pipes: MakePipe, caplog: Caplog) -> None:
        pipe = pipes(limit=20_000)
        for number in range(20_000):
            pipe.writer.write(line(number))
            if number % 100 == 0:
                pipe.read(1000)
        pipe.start_reading()
        assert pipe.writer.close(60)
        lines = pipe.lines()
        numbers = [int(each[:7]) for each in lines]
        assert lines == [line(number)[:-1] for number in numbers]
        assert numbers == sorted(numbers)
        assert len(lines) + told(caplog) == 20_000

    def test_who_never_comes_is_not_waited_for(self, pipes: MakePipe, caplog: Caplog) -> None:
        pipe = pipes()
        for number in range(5000):
            pipe.writer.write(line(number))
        assert not pipe.writer.close(0.01)
        assert 0 < told(caplog) < 5000
        pipe.writer.write(b"after the end\n")

    def test_who_is_gone_is_told_of_once(self, pipes: MakePipe, caplog: Caplog) -> None:
        pipe = pipes()
        os.close(pipe.read_end)
        for number in range(100):
            pipe.writer.write(line(number))
        assert not pipe.writer.close(60)
        assert caplog.text.count("log cannot be written: " + os.strerror(errno.EPIPE)) == 1
        assert told(caplog) == 100
        assert "lost: it cannot be written" in caplog.text

    def test_the_buffer_is_bounded(self, pipes: MakePipe) -> None:
        """In bytes, also by what is written at once."""
        pipe = pipes(limit=100_000)
        pipe.writer.write(b"".join(map(line, range(100_000))))
        pipe.start_reading()
        assert pipe.writer.close(60)
        size = sum(len(each) + 1 for each in pipe.lines())
        assert 100_000 - 100 < size <= 100_000


class TestDescriptor:
    def test_its_flags_are_let_be(self, pipes: MakePipe) -> None:
        """They are shared with other processes."""
        pipe = pipes()
        pipe.start_reading()
        pipe.writer.write(line(1))
        assert os.get_blocking(pipe.write_end)
        assert pipe.writer.close(60)
        assert pipe.lines() == [line(1)[:-1]]

    def test_others_may_have_made_it_non_blocking(self, pipes: MakePipe, caplog: Caplog) -> None:
        pipe = pipes()
        os.set_blocking(pipe.write_end, False)
        for number in range(5000):
            pipe.writer.write(line(number))
        pipe.start_reading()
        assert pipe.writer.close(60)
        assert pipe.lines() == [line(number)[:-1] for number in range(5000)]
        assert caplog.text == ""

    def test_one_of_others_stays_open(self, pipes: MakePipe) -> None:
        pipe = pipes()
        for _ in range(2):
            writer = LineWriter(pipe.write_end, "shared", owned=False)
            writer.write(line(1))
            assert writer.close(60)
        pipe.writer.close()
        assert pipe.lines() == [line(1)[:-1]] * 2

    def test_one_that_is_owned_is_closed(self, tmp_path: Path) -> None:
        for lines in (b"", b"one\n"):
            fd = appending(tmp_path / "log")
            writer = LineWriter(fd, "log", owned=True)
            if lines:
                writer.write(lines)
            assert writer.close(60)
            wait_until(lambda fd=fd: not Path(f"/proc/self/fd/{fd}").exists())  # type: ignore[misc]

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk here")
    def test_a_full_disk(self, caplog: Caplog) -> None:
        writer = LineWriter(os.open("/dev/full", os.O_WRONLY), "log", owned=True)
        for number in range(3):
            writer.write(line(number))
        assert not writer.close(60)
        assert caplog.text.count("log cannot be written: " + os.strerror(errno.ENOSPC)) == 1
        assert told(caplog) == 3


class TestReopening:
    def test_lines_go_where_they_belong(self, tmp_path: Path, caplog: Caplog) -> None:
        paths = [tmp_path / f"log.{number}" for number in range(3)]
        writer = LineWriter(appending(paths[0]), "log", owned=True)
        writer.write(b"0\n" * 1000)
        for number, path in enumerate(paths[1:], 1):
            writer.write(b"before %d\n" % number)
            writer.reopen(appending(path))
            writer.write(b"%d\n" % number * 1000)
            wait_until(lambda path=path: path.stat().st_size == 2000)  # type: ignore[misc]
        assert writer.close(60)
        assert [path.read_bytes() for path in paths] == [
            b"0\n" * 1000 + b"before 1\n",
            b"1\n" * 1000 + b"before 2\n",
            b"2\n" * 1000,
        ]
        assert caplog.text == ""

    def test_lines_that_wait_are_written_where_they_were_meant(
        self, pipes: MakePipe, tmp_path: Path
    ) -> None:
        """Behind a reader that sleeps, too; however often it is reopened meanwhile."""
        pipe = pipes()
        for number in range(5000):
            pipe.writer.write(line(number))
        descriptors = open_descriptors()
        for _ in range(50):
            pipe.writer.reopen(appending(tmp_path / "log"))
        assert open_descriptors() == descriptors + 1
        pipe.writer.write(b"new\n")
        pipe.start_reading()
        assert pipe.writer.close(60)
        assert pipe.lines() == [line(number)[:-1] for number in range(5000)]
        assert (tmp_path / "log").read_bytes() == b"new\n"

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk here")
    def test_lines_that_could_not_be_written_are_then(self, tmp_path: Path, caplog: Caplog) -> None:
        writer = LineWriter(os.open("/dev/full", os.O_WRONLY), "log", owned=True)
        writer.write(b"old\n")
        wait_until(lambda: "cannot be written" in caplog.text)
        writer.reopen(appending(tmp_path / "log"))
        writer.write(b"new\n")
        assert writer.close(60)
        assert (tmp_path / "log").read_bytes() == b"old\nnew\n"
        assert told(caplog) == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.skipif(sys.platform != "linux", reason="others cannot fork safely")
def test_a_forked_child_has_a_thread_of_its_own(pipes: MakePipe) -> None:
    """And nothing of what waits in its parent."""
    pipe = pipes()
    for number in range(5000):
        pipe.writer.write(line(number))
    child = os.fork()
    if child == 0:
        pipe.writer.write(b"child\n")
        os._exit(0 if pipe.writer.close(60) else 1)
    pipe.start_reading()
    assert pipe.writer.close(60)
    _, status = os.waitpid(child, 0)
    assert status == 0
    lines = pipe.lines()
    assert lines.count(b"child") == 1
    lines.remove(b"child")
    assert lines == [line(number)[:-1] for number in range(5000)]


@pytest.mark.parametrize(
    ("data", "limit", "length"),
    [
        (b"one\ntwo\n", 8, 8),
        (b"one\ntwo\n", 7, 4),
        (b"one\ntwo\n", 4, 4),
        (b"one\ntwo\n", 3, 4),  # longer than the limit: whole nevertheless
        (b"one\ntwo\nthree\n", 9, 8),
    ],
)
def test_no_write_ends_inside_a_line(data: bytes, limit: int, length: int) -> None:
    """A pipe takes so many bytes in one piece; workers that share it must not mix their lines."""
    assert whole_lines(data, limit) == length


def appending(path: Path) -> int:
    """A descriptor of a log file."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)


def open_descriptors() -> int:
    """How many this process has."""
    return len(os.listdir("/proc/self/fd"))


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    while not true():
        os.sched_yield()
