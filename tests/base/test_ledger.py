"""base/ledger.py: counters in memory that outlives the process that counts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from stickyproxy.base.ledger import NAME, OTHERS, ROWS, Ledger, added_up

COUNTS_AND_WAITS = """
import sys
from stickyproxy.base.ledger import Ledger
ledger = Ledger(2, int(sys.argv[1]))
for name in ("", "shop"):
    ledger.row(name)[1] += 7
print("done", flush=True)
sys.stdin.read()
"""


def counts(of: Ledger) -> dict[str, list[int]]:
    """The rows of one."""
    return added_up([of])


def test_rows_begin_with_zeros() -> None:
    made = Ledger(3)
    assert counts(made) == {}
    made.row("shop")[0] += 2
    made.row("")[2] += 1
    made.row("shop")[0] += 2**40
    assert counts(made) == {"shop": [2 + 2**40, 0, 0], "": [0, 0, 1]}
    made.close()


def test_what_others_count_in_the_same_memory_is_seen() -> None:
    """Whichever of the two has begun a row."""
    here = Ledger(2)
    there = Ledger(2, here.descriptor)
    here.row("a")[0] += 1
    there.row("b")[0] += 1
    there.row("a")[0] += 1
    assert counts(here) == counts(there) == {"a": [2, 0], "b": [1, 0]}
    assert counts(Ledger(2, here.descriptor)) == counts(here), "a successor goes on"
    here.close()


def test_they_are_added_up() -> None:
    one, other = Ledger(2), Ledger(2)
    one.row("a")[0] += 1
    other.row("b")[1] += 5
    other.row("a")[0] += 3
    assert added_up([one, other]) == {"a": [4, 0], "b": [0, 5]}
    assert added_up([]) == {}
    one.close()
    other.close()


def test_a_killed_process_loses_nothing() -> None:
    made = Ledger(2)
    for times in (1, 2):
        counting = subprocess.Popen(
            [sys.executable, "-c", COUNTS_AND_WAITS, str(made.descriptor)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[made.descriptor],
        )
        assert counting.stdout is not None
        assert counting.stdout.readline() == b"done\n"
        counting.kill()
        assert counting.wait() == -signal.SIGKILL
        counting.communicate()
        assert counts(made) == {"": [0, 7 * times], "shop": [0, 7 * times]}
    made.close()


@pytest.mark.parametrize("name", ["a" * 1000, "é" * 500, "a" + "é" * 500, "世" * 300])
def test_long_names_are_cut(name: str) -> None:
    made = Ledger(1)
    made.row(name)[0] += 1
    made.row(name)[0] += 1
    [(cut, row)] = counts(made).items()
    assert name.startswith(cut)
    assert NAME - 3 < len(cut.encode()) <= NAME
    assert row == [2]
    made.close()


def test_its_size_is_bounded() -> None:
    made = Ledger(1)
    for number in range(ROWS + 5):
        made.row(f"service-{number}")[0] += 1
    found = counts(made)
    assert len(found) == ROWS
    assert found["service-0"] == found[f"service-{ROWS - 2}"] == [1]
    assert found[OTHERS] == [6]
    made.close()


def test_it_takes_memory_only_as_rows_are_begun() -> None:
    made = Ledger(100)
    assert os.fstat(made.descriptor).st_size > 5_000_000
    made.row("shop")[0] += 1
    assert os.fstat(made.descriptor).st_blocks * 512 <= 16384
    made.close()


def test_a_row_that_was_released_is_anothers() -> None:
    """Who reads sees the one or the other, with what it has counted itself."""
    made = Ledger(2, rows=4, extra=8)
    reads = Ledger(2, made.descriptor, rows=4, extra=8)
    for name in ("a", "b", "c"):
        made.row(name)[0] += 5
        made.rest(name)[3] = 7
    assert counts(reads) == {"a": [5, 0], "b": [5, 0], "c": [5, 0]}
    made.release("b")
    made.release("never")
    assert counts(reads) == counts(made) == {"a": [5, 0], "c": [5, 0]}
    made.row("d")[1] += 1
    made.row("e")[0] += 1
    assert counts(reads) == {"a": [5, 0], "d": [0, 1], "c": [5, 0], OTHERS: [1, 0]}
    assert {name: extra for name, _, extra in reads.counts()}["d"] == bytes(8)
    made.release("c")
    succeeds = Ledger(2, made.descriptor, rows=4, extra=8)
    succeeds.row("f")[0] += 2
    assert counts(reads) == counts(made) == {"a": [5, 0], "d": [0, 1], "f": [2, 0], OTHERS: [1, 0]}
    made.close()


def test_what_changes_while_it_is_read_is_left_out() -> None:
    made = Ledger(1, rows=4)
    reads = Ledger(1, made.descriptor, rows=4)
    for name in ("a", "b", "c"):
        made.row(name)[0] += 5
    reading = reads.counts()
    assert next(reading)[:2] == ("a", [5])
    made.release("b")
    made.row("d")[0] += 1
    assert [name for name, _, _ in reading] == ["c"]
    assert counts(reads) == {"a": [5], "d": [1], "c": [5]}
    made.close()
