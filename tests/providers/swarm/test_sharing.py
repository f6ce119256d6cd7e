"""providers/swarm/sharing.py: who may have a host together, as the reader has it."""

from __future__ import annotations

from itertools import permutations

import pytest

from stickyproxy.model.snapshot import Snapshot
from stickyproxy.providers.swarm.reader import SwarmReader
from stickyproxy.providers.swarm.state import Json, ProxyLocation
from tests.swarm_dicts import labels, listing, service, task

MORNING, NOON, EVENING = (f"2026-11-21T{hour}:00:00.1Z" for hour in ("06", "12", "18"))


def of(stack: str, created: str, name: str = "", **marks: str) -> Json:
    """A service of a stack on demo.local."""
    there = labels(**marks) | ({"com.docker.stack.namespace": stack} if stack else {})
    return service(name or f"{stack}_web", marks=there) | {"CreatedAt": created}


def read(*services: Json) -> Snapshot:
    tasks = [task(f"t-{each['Spec']['Name']}", each["Spec"]["Name"]) for each in services]
    return SwarmReader().read(listing(list(services), tasks), ProxyLocation()).snapshot


def hosts(snapshot: Snapshot) -> dict[str, tuple[str, ...]]:
    return {spec.name: spec.hosts for spec in snapshot.services}


class TestStacks:
    def test_who_was_created_first_keeps_the_host(self) -> None:
        claims = [of("b", NOON), of("a", EVENING), of("c", MORNING, hosts="c.local")]
        for order in permutations(claims):
            found = read(*order)
            assert hosts(found) == {"b_web": ("demo.local",), "c_web": ("c.local",)}
            [problem] = found.problems
            assert problem.service == "a_web"
            assert problem.fatal
            assert problem.label == "com.docker.lb.hosts"
            assert "demo.local, which service b_web of stack b had before" in problem.reason
            assert problem.remedy == (
                "docker service update --label-add com.docker.lb.share=true b_web && "
                "docker service update --label-add com.docker.lb.share=true a_web"
            )

    def test_a_part_of_a_second_counts(self) -> None:
        """Docker writes no zeros at the end."""
        first, second = "2026-11-21T06:00:00.1Z", "2026-11-21T06:00:00.12Z"
        assert set(hosts(read(of("a", second), of("b", first)))) == {"b_web"}

    def test_at_the_same_time_the_name_decides(self) -> None:
        assert set(hosts(read(of("b", NOON), of("a", NOON)))) == {"a_web"}

    def test_other_hosts_are_not_concerned(self) -> None:
        found = read(of("a", MORNING), of("b", NOON, hosts="demo.local,b.local"))
        assert hosts(found) == {"a_web": ("demo.local",), "b_web": ("b.local",)}
        assert [problem.partial for problem in found.problems] == [True]

    def test_nor_other_context_roots(self) -> None:
        found = read(of("a", MORNING), of("b", NOON, context_root="/b"))
        assert set(hosts(found)) == {"a_web", "b_web"}
        assert found.problems == ()

    @pytest.mark.parametrize(
        ("one", "other", "lacking"),
        [("true", "true", ""), ("true", "false", "b_web"), ("false", "true", "a_web")],
    )
    def test_both_have_to_agree(self, one: str, other: str, lacking: str) -> None:
        found = read(of("a", MORNING, share=one), of("b", NOON, share=other))
        assert ("b_web" in hosts(found)) == (not lacking)
        remedies = [problem.remedy for problem in found.problems]
        assert remedies == [
            f"docker service update --label-add com.docker.lb.share=true {name}"
            for name in ([lacking] if lacking else [])
        ]

    @pytest.mark.parametrize(("one", "other"), [("a", "a"), ("", ""), ("a", ""), ("", "a")])
    def test_one_stack_or_none_is_merged(self, one: str, other: str) -> None:
        found = read(of(one, MORNING, "first"), of(other, NOON, "second"))
        assert hosts(found) == {"first": ("demo.local",), "second": ("demo.local",)}
        assert found.problems == ()

    def test_the_default_service(self) -> None:
        found = read(
            of("a", MORNING, hosts="a.local", default_backend="true"),
            of("b", NOON, hosts="b.local", default_backend="true"),
        )
        assert [spec.default_backend for spec in found.services] == [True, False]
        assert "asks for any other host" in found.problems[0].reason

    def test_one_that_cannot_be_reached_keeps_its_host(self) -> None:
        stuck = of("a", MORNING, network="none")
        found = read(stuck, of("b", NOON))
        assert hosts(found) == {"a_web": ("demo.local",)}
        assert {problem.service for problem in found.problems} == {"a_web", "b_web"}


class TestPassthrough:
    """TLS takes the whole host, whatever the context roots."""

    @pytest.mark.parametrize("passed_first", [True, False])
    def test_of_another_stack_is_refused(self, passed_first: bool) -> None:
        times = (MORNING, NOON) if passed_first else (NOON, MORNING)
        passed = of("a", times[0], ssl_passthrough="true")
        served = of("b", times[1], context_root="/b")
        assert set(hosts(read(passed, served))) == {"a_web" if passed_first else "b_web"}

    def test_in_one_stack_they_share_the_host(self) -> None:
        passed = of("a", MORNING, name="a_tls", ssl_passthrough="true")
        served = of("a", NOON, name="a_web", context_root="/b")
        assert set(hosts(read(passed, served))) == {"a_tls", "a_web"}
