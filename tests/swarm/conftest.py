"""Swarms for the tests: started for a test module or a single test, and removed after it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.swarm import images, stage
from tests.swarm.engine import Swarm, why_not


@pytest.fixture(scope="session")
def archive() -> Path:
    """The images, made if need be. Skips where no engine can run; in CI that is a failure."""
    reason = why_not()
    if reason is not None:
        message = f"the Swarm suite cannot run here: {reason}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with Swarm() as swarm:
        return images.prepare(swarm.manager)


@pytest.fixture
def swarm(archive: Path) -> Iterator[Swarm]:
    """One node that has the images; nothing is deployed."""
    with Swarm() as started:
        images.load(started.manager, archive)
        yield started


@pytest.fixture
def three(archive: Path) -> Iterator[Swarm]:
    """Three nodes that have the images, all of them managers."""
    with Swarm(nodes=3, managers=3) as started:
        for node in started.nodes:
            images.load(node, archive)
        yield started


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failed test shows what the proxies logged and what runs."""
    report = yield
    swarm = getattr(item, "funcargs", {}).get("swarm") or getattr(item, "funcargs", {}).get("three")
    if call.when == "call" and call.excinfo is not None and isinstance(swarm, Swarm):
        try:
            what = swarm.manager.docker("service", "ls") + stage.proxy_logs(swarm.manager)
        except Exception as error:  # the engine may be the very thing that failed
            what = f"{error}\n{swarm.manager.log()}"
        item.add_report_section("call", "swarm", what)
    return report
