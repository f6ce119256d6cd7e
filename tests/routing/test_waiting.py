"""The room of requests that wait: whose time is over is resumed then, a few in a turn."""

from __future__ import annotations

import asyncio

from stickyproxy.routing.waiting import AT_ONCE, WaitingRoom


class Waiter:
    """Notes in ``order`` that it was resumed; ``again``: and waits for that long once more."""

    def __init__(self, room: WaitingRoom, order: list[object], again: float = 0.0) -> None:
        self.room = room
        self.order = order
        self.again = again
        self.done = asyncio.Event()

    def resume(self) -> None:
        """See ``Waits``."""
        self.order.append(self)
        if self.again:
            self.room.enter(self, self.again)
            self.again = 0.0
        else:
            self.done.set()


async def test_who_waits_again_holds_nobody_up() -> None:
    room, order = WaitingRoom(), list[object]()
    patient, other = Waiter(room, order, again=1.0), Waiter(room, order)
    room.enter(patient, 0.01)
    room.enter(other, 0.05)
    asyncio.get_running_loop().call_later(0.5, order.append, "half a second")
    await asyncio.wait_for(patient.done.wait(), 20)
    assert order == [patient, other, "half a second", patient]


async def test_no_more_than_a_few_in_a_turn() -> None:
    room, order = WaitingRoom(), list[object]()
    waiters = [Waiter(room, order) for _ in range(5 * AT_ONCE)]
    late = Waiter(room, order)
    for waiter in waiters:
        room.enter(waiter, 0.01)
    room.enter(late, 0.5)
    turns = []
    while not late.done.is_set():
        before = len(order)
        await asyncio.sleep(0)
        turns.append(len(order) - before)
    assert order == [*waiters, late]
    assert max(turns) <= AT_ONCE
