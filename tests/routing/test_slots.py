"""Slots of an endpoint, in several workers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from stickyproxy.base.commons import Commons
from stickyproxy.model.terms import InFlight
from stickyproxy.routing.slots import Slots

TWO = InFlight(most=2, queue=5, patience=30.0)


@pytest.fixture
def workers() -> Iterator[list[Slots]]:
    """Those of three."""
    first = Commons(3, number=0)
    commons = [Commons(3, first.descriptor, number) for number in (1, 2, 3)]
    yield [Slots(TWO, each.headcount, b"demo e1") for each in commons]
    first.close()


def test_all_workers_count_together(workers: list[Slots]) -> None:
    first, second, third = workers
    assert [first.take(), second.take(), third.take(), first.take()] == [True, True, False, False]
    assert third.is_full
    assert third.describe() == "2 of 2 at a time, 0 of 5 wait"
    second.release()
    assert [third.take(), first.take()] == [True, False]
    for each in (first, third):
        each.release()
    assert [second.take(), second.take(), second.take()] == [True, True, False]


def test_each_endpoint_has_its_own() -> None:
    commons = Commons(1)
    slots = [Slots(TWO, commons.headcount, whose) for whose in (b"demo e1", b"demo e2")]
    assert [each.take() for each in slots * 3] == [True, True, True, True, False, False]
    commons.close()


async def test_who_waits_gets_what_another_worker_gives_back(workers: list[Slots]) -> None:
    first, second, third = workers
    assert first.take()
    assert second.take()
    waiting = [asyncio.create_task(each.wait()) for each in (third, third)]
    await asyncio.sleep(0)
    first.release()
    done, _ = await asyncio.wait(waiting, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    assert done == {waiting[0]}
    third.release()
    await asyncio.wait_for(waiting[1], 20)
    assert not first.take()
    third.release()
    assert first.take()


async def test_who_looks_on_takes_nothing() -> None:
    first = Commons(2, number=0)
    worker = Slots(TWO, Commons(2, first.descriptor, 2).headcount, b"demo e1")
    looking = Slots(TWO, first.headcount, b"demo e1")
    assert [worker.take(), looking.is_full] == [True, False]
    assert [worker.take(), looking.is_full] == [True, True]
    first.close()


async def test_fewer_slots_are_fewer_also_while_somebody_waits() -> None:
    slots = Slots(TWO)
    assert [slots.take(), slots.take()] == [True, True]
    waiting = asyncio.create_task(slots.wait())
    await asyncio.sleep(0)
    slots.declare(InFlight(most=1, queue=5, patience=30.0))
    slots.release()
    assert slots.describe() == "1 of 1 at a time, 1 of 5 wait"
    slots.release()
    await asyncio.wait_for(waiting, 20)
    assert slots.describe() == "1 of 1 at a time, 0 of 5 wait"


async def test_more_slots_are_for_those_who_wait_first() -> None:
    slots = Slots(TWO)
    assert [slots.take(), slots.take()] == [True, True]
    waiting = asyncio.create_task(slots.wait())
    await asyncio.sleep(0)
    slots.declare(InFlight(most=4, queue=5, patience=30.0))
    await asyncio.wait_for(waiting, 20)
    assert slots.describe() == "3 of 4 at a time, 0 of 5 wait"
    assert [slots.take(), slots.take()] == [True, False]


async def test_who_comes_does_not_overtake_who_waits() -> None:
    """Another worker has given one back, and nobody here has looked yet."""
    first = Commons(2, number=0)
    here, there = (
        Slots(TWO, Commons(2, first.descriptor, number).headcount, b"demo e1") for number in (1, 2)
    )
    assert [there.take(), there.take()] == [True, True]
    waiting = asyncio.create_task(here.wait())
    await asyncio.sleep(0)
    there.release()
    assert not here.take()
    await asyncio.wait_for(waiting, 20)
    first.close()
