"""dataplane/turns.py: who waits is served in order, a few in each turn of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from stickyproxy.dataplane.turns import PER_TURN, Turns


async def turn() -> None:
    """Let the loop make one turn."""
    await asyncio.sleep(0)


async def test_in_the_order_of_their_coming() -> None:
    turns, served = Turns(), list[int]()
    for number in range(3 * PER_TURN):
        turns.wait(partial(served.append, number))
    for _ in range(3):
        await turn()
    assert served == list(range(3 * PER_TURN))


async def test_nobody_is_served_at_once() -> None:
    turns, served = Turns(), list[int]()
    turns.wait(partial(served.append, 1))
    assert not served


async def test_a_few_in_each_turn() -> None:
    turns, served = Turns(), list[int]()
    for number in range(100):
        turns.wait(partial(served.append, number))
    for after in range(1, 100 // PER_TURN + 1):
        await turn()
        assert len(served) == after * PER_TURN
    await turn()
    assert len(served) == 100


async def test_who_comes_again_waits_behind_the_others() -> None:
    turns, served = Turns(), list[str]()

    def greedy() -> None:
        served.append("greedy")
        turns.wait(greedy)

    turns.wait(greedy)
    for _ in range(50):
        turns.wait(partial(served.append, "other"))
    for _ in range(50):
        await turn()
    behind_the_others = served.index("greedy", 1)
    assert served[:behind_the_others] == ["greedy"] + 50 * ["other"]


async def test_who_comes_in_a_turn_waits_for_the_next() -> None:
    """However few they are: a turn ends."""
    turns, served = Turns(), list[int]()

    def again() -> None:
        served.append(len(served))
        turns.wait(again)

    turns.wait(again)
    for count in range(1, 20):
        await turn()
        assert len(served) == count


async def test_one_that_fails_stops_nobody() -> None:
    turns, served, raised = Turns(), list[int](), list[object]()
    loop = asyncio.get_running_loop()

    def note(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        raised.append(context["exception"])

    def fail(error: Exception) -> None:
        raise error

    failures = [ValueError(str(number)) for number in range(5)]
    waiting: list[Callable[[], None]] = []
    for number, failure in enumerate(failures):
        waiting += [partial(fail, failure), partial(served.append, number)]
    loop.set_exception_handler(note)
    try:
        for each in waiting:
            turns.wait(each)
        for _ in waiting:
            await turn()
    finally:
        loop.set_exception_handler(None)
    assert served == list(range(5))
    assert raised == failures


async def test_after_a_pause_it_goes_on() -> None:
    turns, served = Turns(), list[int]()
    for number in range(3):
        turns.wait(partial(served.append, number))
        await turn()
        await turn()
    assert served == [0, 1, 2]


async def test_shows_how_many_wait() -> None:
    turns = Turns()
    assert repr(turns) == "<Turns 0 waiting>"
    turns.wait(lambda: None)
    assert repr(turns) == "<Turns 1 waiting>"
    await turn()
    assert repr(turns) == "<Turns 0 waiting>"
