"""Swarms for the tests: started for a test module or a single test, and removed after it."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
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


@pytest.fixture(scope="session")
def shared_swarm(archive: Path) -> Iterator[Swarm]:
    """One node with the stack, and an overlay network "demo" for services, for several modules."""
    with Swarm() as started:
        images.load(started.manager, archive)
        stage.deploy(started)
        started.manager.docker("network", "create", "-d", "overlay", "demo")
        yield started


@pytest.fixture(scope="module")
def deployed(shared_swarm: Swarm) -> Iterator[Swarm]:
    """The shared Swarm; the services that a module creates are removed after it."""
    yield shared_swarm
    names = (each["Spec"]["Name"] for each in shared_swarm.manager.api("/services"))
    ours = [name for name in names if not name.startswith(("stickyproxy_", "stickyproxy-net-"))]
    shared_swarm.manager.docker("service", "rm", *ours)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the proxies logged and what runs."""
    report = yield
    arguments = getattr(item, "funcargs", {}).values()
    swarms = (getattr(value, "swarm", value) for value in arguments)
    swarm = next((value for value in swarms if isinstance(value, Swarm)), None)
    if swarm is not None and report.failed:
        try:
            what = swarm.manager.docker("service", "ls") + stage.proxy_logs(swarm.manager)
        except Exception as error:  # the engine may be the very thing that failed
            what = f"{error}\n{swarm.manager.log()}"
        for log in sorted(swarm.directory.glob("*.log")):  # of plain processes
            what += f"\n--- {log.name}\n{log.read_text(errors='replace')[-3000:]}"
        report.sections.append(("Swarm", what))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the tests had to tell, also of those that passed."""
    if stage.told:
        terminalreporter.section("what the Swarm showed")
        for text in stage.told:
            terminalreporter.write_line(text)
