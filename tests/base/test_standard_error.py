"""Standard error that nobody waits for: order, crashes, and pipes that are full."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress

BEGIN = """
import logging, sys, threading, warnings
from stickyproxy.base import standard_error
standard_error.never_wait()
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
log = logging.getLogger()
"""
TIMEOUT = 60.0


def run(program: str, early: str = "") -> tuple[int, list[str]]:
    """Exit status and lines of a program."""
    done = subprocess.run(
        [sys.executable, "-c", early + BEGIN + program],
        check=False,
        stderr=subprocess.PIPE,
        timeout=TIMEOUT,
    )
    return done.returncode, done.stderr.decode().splitlines()


def test_everything_in_order() -> None:
    """The log, what is printed, and what is left of a line at the end."""
    program = """
for number in range(2000):
    log.info("log %d", number)
    print("print", number, file=sys.stderr)
print("begun", end="", file=sys.stderr)
sys.stderr.flush()
print(", ended", file=sys.stderr)
print("left", end="", file=sys.stderr)
"""
    expected = [f"{what} {number}" for number in range(2000) for what in ("log", "print")]
    assert run(program) == (0, [*expected, "begun, ended", "left"])


def test_a_traceback_is_last() -> None:
    status, lines = run('log.info("before")\nraise RuntimeError("at the end")')
    assert status == 1
    assert lines[:2] == ["before", "Traceback (most recent call last):"]
    assert lines[-1] == "RuntimeError: at the end"


def test_a_traceback_of_a_thread() -> None:
    program = """
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
log.info("after")
"""
    status, lines = run(program)
    assert status == 0
    assert lines[-2:] == ["ZeroDivisionError: division by zero", "after"]


def test_what_comes_very_late() -> None:
    """What is called at the end, too, after what is written there."""
    early = "import atexit, logging\natexit.register(lambda: logging.info('last'))\n"
    assert run('log.info("first")', early) == (0, ["first", "last"])


def test_it_may_be_closed() -> None:
    command = f'exec {sys.executable} -c "$0" 2>&-'
    program = "from stickyproxy.base import standard_error\nstandard_error.never_wait()"
    subprocess.run(["sh", "-c", command, program], check=True, timeout=TIMEOUT)


def test_a_full_pipe_stops_nothing() -> None:
    """Neither messages, nor a traceback, nor the end."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with suppress(BlockingIOError):
        while True:
            os.write(write, b"\n")
    os.set_blocking(write, True)
    program = """
for number in range(20000):
    log.info("%d %s", number, "x" * 100)
print("done", flush=True)
raise RuntimeError
"""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program],
        check=False,
        stdout=subprocess.PIPE,
        stderr=write,
        timeout=TIMEOUT,
    )
    os.close(write)
    os.close(read)
    assert (done.returncode, done.stdout) == (1, b"done\n")


def test_lost_lines_are_told_of_there() -> None:
    """By who reads again before the end."""
    program = """
for number in range(20000):
    log.info("%d %s", number, "x" * 100)
print("done", flush=True)
sys.stdin.read()
log.info("later")
"""
    with subprocess.Popen(
        [sys.executable, "-c", BEGIN + program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        _, err = process.communicate(timeout=TIMEOUT)
    lines = err.decode().splitlines()
    counts = [int(line.split()[0]) for line in lines if " of this log lost: nobody" in line]
    assert len([line for line in lines if line.endswith("xxx")]) + sum(counts) == 20000
    assert "later" in lines
