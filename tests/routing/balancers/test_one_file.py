"""A balancer is one file: a copy of the package with one file more has it in the configuration, in
labels, in all worker processes and in what a controller says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import stickyproxy
from stickyproxy.config import codec
from stickyproxy.routing.balancers.cookie import CookiePolicy
from stickyproxy.routing.balancers.round_robin import RoundRobinPolicy
from tests.cli.test_main import StartProgram, asked, document, programs, service
from tests.conftest import MakeEndpoint
from tests.scripted import answering, get, ok

FAILOVER = '''
"""failover: everybody goes to one endpoint, and to the next if that fails."""

from dataclasses import dataclass
from typing import ClassVar

from stickyproxy.base.values import boolean, text
from stickyproxy.routing.endpoint import Affinity, Pick
from stickyproxy.routing.policy import Option, PolicyKind


@dataclass(frozen=True, slots=True)
class FailoverPolicy:
    first: str | None

    kind: ClassVar[str] = "failover"
    affinity: ClassVar[bool] = False

    def build(self, members, previous):
        return FailoverBalancer(sorted(members.accepting, key=lambda e: e.address != self.first))

    def describe(self):
        return f"failover from {self.first}"

    def options(self):
        return {"failover": True} | ({"failover_first": self.first} if self.first else {})


class FailoverBalancer:
    strips = frozenset()

    def __init__(self, endpoints):
        self._picks = [Pick(endpoint, Affinity.NONE) for endpoint in endpoints]

    def pick(self, request, tried):
        return next((pick for pick in self._picks if pick.endpoint not in tried), None)


KIND = PolicyKind(
    make=lambda asked: FailoverPolicy(asked.get("failover_first")) if "failover" in asked else None,
    options={
        "failover": Option(bool, boolean),
        "failover_first": Option(str, text, adjusts="failover"),
    },
)
'''


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The environment of programs that have the balancer."""
    package = tmp_path / "more" / "stickyproxy"
    shutil.copytree(
        Path(stickyproxy.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    (package / "routing" / "balancers" / "failover.py").write_text(FAILOVER)
    return {"PYTHONPATH": str(package.parent), "PYTHONSAFEPATH": "1"}


@pytest.fixture
async def start() -> AsyncIterator[StartProgram]:
    """Starts programs."""
    async with programs() as start:
        yield start


def printed(environ: dict[str, str], *lines: str) -> str:
    """What a Python program with these lines prints."""
    return subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


async def test_in_the_configuration_and_in_all_workers(
    environ: dict[str, str], start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path
) -> None:
    peers = [await endpoint(answering(ok(b"%d" % number))) for number in range(3)]
    addresses = [peer.address for peer in peers]
    (tmp_path / "config.toml").write_text(
        document(
            service("demo", addresses, "failover = true", f'failover_first = "{addresses[1]}"'),
            workers=2,
        )
    )
    program = await start("serve", "--config", tmp_path / "config.toml", environ=environ)
    port = await program.listening()
    bodies = [(await asked(port, get())).body for _ in range(20)]
    assert bodies == [b"1"] * 20, "whichever worker takes the connection"
    await program.stop()


async def test_what_is_wrong_with_it(
    environ: dict[str, str], start: StartProgram, tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_text(
        document(
            service("a", [], "failover = true", 'sticky_session_cookie = "session"'),
            service("b", [], 'failover_first = "x"'),
            service("c", [], 'failover = "perhaps"'),
            service("d", [], "failovr = true"),
        )
    )
    program = await start("check", "--config", tmp_path / "config.toml", environ=environ)
    assert await program.ended() != 0
    for reason in (
        "services[0] (a).failover: cannot be combined with sticky_session_cookie: remove one of",
        "services[1] (b).failover_first: has no meaning without failover: set that too",
        'services[2] (c).failover: "perhaps" is neither true nor false: write one of them',
        'unknown key "failovr" (did you mean "failover"?)',
    ):
        assert reason in program.out.text + program.err.text


def test_in_labels(environ: dict[str, str]) -> None:
    text = printed(
        environ,
        "from stickyproxy.providers.swarm.labels import parse_service",
        "labels = dict(hosts='shop.local', port='80', failover='true', failover_first='a:1')",
        "found = parse_service('shop', {'com.docker.lb.' + key: labels[key] for key in labels})",
        "print(found.problems, found.options.spec('shop', ()).policy.describe())",
        "labels = {'com.docker.lb.failover': 'perhaps', 'com.docker.lb.port': '80'}",
        "labels['com.docker.lb.hosts'] = 'shop.local'",
        "print(*parse_service('shop', labels).problems)",
    )
    well, wrong = text.splitlines()
    assert well == "() failover from a:1"
    assert wrong == (
        'service shop: com.docker.lb.failover: "perhaps" is neither true nor false: write one of '
        "them (try: docker service update --label-rm com.docker.lb.failover shop)"
    )


def test_in_snapshots_for_proxies_that_do_not_have_it(environ: dict[str, str]) -> None:
    text = printed(
        environ,
        "from stickyproxy.config import codec",
        "from stickyproxy.model.service import ServiceSpec",
        "from stickyproxy.model.snapshot import Snapshot",
        "from stickyproxy.routing.balancers.cookie import CookiePolicy",
        "from stickyproxy.routing.balancers.failover import FailoverPolicy",
        "from stickyproxy.routing.balancers.round_robin import RoundRobinPolicy",
        "cookie = CookiePolicy(b'session', b'/', RoundRobinPolicy())",
        "specs = [('a', FailoverPolicy('x:1')), ('b', cookie), ('c', None)]",
        "services = tuple(ServiceSpec(n, (n + '.local',), policy=p) for n, p in specs)",
        "snapshot = Snapshot('swarm', services)",
        "data = codec.encode(snapshot)",
        "assert codec.decode(data) == snapshot",
        "print(data.decode())",
    )
    snapshot = codec.decode(text.encode())
    assert [service.policy for service in snapshot.services] == [
        None,
        CookiePolicy(b"session", b"/", RoundRobinPolicy()),
        None,
    ]
    [problem] = snapshot.problems
    assert str(problem) == (
        f'service a: asks for the policy "failover", which stickyproxy {stickyproxy.__version__} '
        "does not know: until this proxy is updated, its policy is round robin"
    )
