"""providers/swarm.py without an engine: threads, pauses, and what is said. Everything that needs
an engine is shown by tests/swarm, on real ones."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from pathlib import Path

import pytest

from stickyproxy.config import SwarmSettings
from stickyproxy.errors import ProviderError
from stickyproxy.model import Snapshot
from stickyproxy.providers.swarm import (
    BACKOFF,
    Engine,
    SwarmProvider,
    Worker,
    backoff,
    list_once,
)


class TestWorker:
    async def test_runs_in_one_other_thread_in_turn(self) -> None:
        worker = Worker("test")
        order: list[int] = []

        def call(number: int) -> int:
            order.append(number)
            return threading.get_ident()

        try:
            calls = (worker.run(partial(call, number)) for number in range(9))
            threads = set(await asyncio.gather(*calls))
        finally:
            worker.stop()
        assert order == list(range(9))
        assert len(threads) == 1
        assert threading.get_ident() not in threads

    async def test_raises_what_the_call_raised(self) -> None:
        worker = Worker("test")
        try:
            with pytest.raises(ZeroDivisionError):
                await worker.run(lambda: 1 // 0)
            assert await worker.run(lambda: 1) == 1
        finally:
            worker.stop()

    async def test_a_call_that_hangs_does_not_hold_its_caller(self) -> None:
        worker = Worker("test")
        held = threading.Event()
        task = asyncio.create_task(worker.run(held.wait))
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await task
        finally:
            held.set()
            worker.stop()


def test_backoff_doubles_up_to_a_limit() -> None:
    first, most = BACKOFF
    for failures in range(1, 100):
        longest = min(most, first * 2 ** (failures - 1))
        assert longest / 2 <= backoff(failures) <= longest
    assert len({backoff(9) for _ in range(9)}) > 1, "with jitter"


class TestWithoutAnEngine:
    @pytest.mark.parametrize(
        ("endpoint", "said"),
        [
            ("unix://{tmp}/none.sock", "there is no engine at unix://{tmp}/none.sock: start it"),
            ("tcp://127.0.0.1:1", "the engine at tcp://127.0.0.1:1 does not answer"),
        ],
    )
    def test_the_reason_is_said(self, tmp_path: Path, endpoint: str, said: str) -> None:
        settings = SwarmSettings(endpoint=endpoint.format(tmp=tmp_path))
        with pytest.raises(ProviderError) as caught:
            list_once(settings)
        assert str(caught.value).startswith(said.format(tmp=tmp_path))

    def test_it_may_come_later(self, tmp_path: Path) -> None:
        engine = Engine(SwarmSettings(endpoint=f"unix://{tmp_path}/none"), forwards_here=True)
        for _ in range(2):
            with pytest.raises(ProviderError):
                engine.look()

    async def test_nothing_is_published(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        published: list[Snapshot] = []
        settings = SwarmSettings(endpoint=f"unix://{tmp_path}/none")
        provider = SwarmProvider(settings, published.append)
        running = asyncio.create_task(provider.run())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(BACKOFF[0] * 4):
                await provider.ready.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert published == []
        warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert len(warnings) == 1, "it is said once"
        assert warnings[0].endswith("no route is known yet, trying again")
