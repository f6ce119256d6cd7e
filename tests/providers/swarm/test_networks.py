"""providers/swarm/networks.py: when a network is joined and left, and that nothing is done
twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from stickyproxy.config.settings import SwarmSettings
from stickyproxy.providers.swarm.networks import (
    JOINED_LABEL,
    PATIENCE,
    RETRY,
    SETTLE,
    Change,
    NetworkPlanner,
)
from stickyproxy.providers.swarm.state import Json, ProxyLocation, SwarmState
from tests.swarm_dicts import listing, network, service, task

CONTAINER = "c" * 64


class Scene:
    """A planner, a clock, and the proxy's service ``lb``, which is to be updated for a network
    that is not attachable."""

    def __init__(self, *, attachable: bool = False, **settings: object) -> None:
        self.planner = NetworkPlanner(replace(SwarmSettings(join_by="service"), **settings))  # type: ignore[arg-type]
        self.now = 1000.0
        self.here: frozenset[str] = frozenset()
        self.container = CONTAINER
        self.own = service("lb", marks={}, networks=[])
        self.tasks: Sequence[Json] = [task("own", "lb", {})]
        self.networks = [network(name, attachable=attachable) for name in "abc"]

    @property
    def state(self) -> SwarmState:
        return listing([self.own], self.tasks, self.networks)

    def plan(self, *wanted: str, after: float = 0.0) -> Change | None:
        """What is planned ``after`` seconds if these networks are wanted."""
        self.now += after
        here = ProxyLocation(self.here, "lb", self.container)
        return self.planner.plan(
            self.state, here, dict.fromkeys(wanted, frozenset({"shop"})), self.now
        )

    def update_is_done(self, change: Change, joined: Iterable[str]) -> None:
        """The engine has replaced the own task."""
        self.own = self.own | {"Spec": change.applied_to(self.own["Spec"])}
        self.here = frozenset(joined)

    @property
    def attached(self) -> list[str]:
        return [each["Target"] for each in self.own["Spec"]["TaskTemplate"]["Networks"]]


class TestLive:
    def test_an_attachable_network_is_joined_at_once(self) -> None:
        assert _parts(Scene(attachable=True).plan("net-a", "net-b")) == {
            "connect": ("net-a", "net-b")
        }

    def test_and_not_again_at_once(self) -> None:
        scene = Scene(attachable=True)
        assert scene.plan("net-a") is not None
        assert scene.plan("net-a", after=RETRY[0] / 2) is None
        assert scene.plan("net-a", after=RETRY[0] / 2) is not None
        assert scene.plan("net-a", after=RETRY[0]) is None, "the pause doubles"
        assert scene.plan("net-a", after=RETRY[0]) is not None

    def test_nothing_to_do_where_the_proxy_is(self) -> None:
        scene = Scene(attachable=True)
        scene.here = frozenset({"net-a"})
        assert scene.plan("net-a") is None

    def test_is_left_after_a_while(self) -> None:
        scene = Scene(attachable=True, release_networks_after=60.0)
        scene.here = frozenset({"net-a"})
        assert scene.plan() is None
        assert scene.plan("net-a", after=59) is None
        assert scene.plan(after=59) is None, "it was wanted in between"
        assert _parts(scene.plan(after=60)) == {"disconnect": ("net-a",)}

    def test_a_network_of_the_own_service_is_not_left(self) -> None:
        scene = Scene(attachable=True, release_networks_after=60.0)
        scene.own = service("lb", marks={}, networks=["net-a"])
        scene.here = frozenset({"net-a"})
        scene.plan()
        assert scene.plan(after=60) is None

    def test_a_container_of_no_service_leaves_nothing(self) -> None:
        """Whoever started it by hand may have connected it by hand."""
        scene = Scene(attachable=True, release_networks_after=60.0)
        scene.own = service("other", marks={})
        scene.here = frozenset({"net-a"})
        scene.plan()
        assert scene.plan(after=60) is None


class TestUpdate:
    def test_one_for_several_networks_after_a_moment(self) -> None:
        scene = Scene()
        assert scene.plan("net-a") is None
        assert scene.plan("net-a", "net-b", after=PATIENCE / 2) is None
        assert scene.plan("net-a", "net-b", after=PATIENCE / 4) is None
        assert _parts(scene.plan("net-a", "net-b", after=PATIENCE)) == {"add": ("net-a", "net-b")}

    def test_the_specification_goes_back_as_it_came_but_for_the_networks(self) -> None:
        spec = service("lb", marks={"x": "y"}, networks=["net-a"], Future={"a": [1]})["Spec"]
        changed = Change(add=("net-b", "net-a")).applied_to(spec)
        assert changed["Labels"] == {"x": "y", JOINED_LABEL: "net-b"}
        assert changed["TaskTemplate"]["Networks"] == [{"Target": "net-a"}, {"Target": "net-b"}]
        assert changed["Future"] == {"a": [1]}
        assert Change(remove=("net-b",)).applied_to(changed) == spec

    def test_no_loop(self) -> None:
        """A network that is in the own service, but not in this task, is on its way."""
        scene = Scene()
        change = self.due(scene)
        scene.update_is_done(change, joined=())
        for _ in range(100):
            assert scene.plan("net-a", after=RETRY[1]) is None

    def test_waits_while_the_own_service_moves(self) -> None:
        scene = Scene()
        scene.tasks = [task("own", "lb", {}, state="starting")]
        scene.plan("net-a")
        assert scene.plan("net-a", after=SETTLE - 1) is None
        assert scene.plan("net-a", after=1) is not None, "but not for ever"

    def test_a_network_that_was_added_is_taken_away_after_a_while(self) -> None:
        scene = Scene(release_networks_after=60.0)
        scene.own = service("lb", marks={}, networks=["net-c"])
        scene.update_is_done(self.due(scene), joined=("net-a", "net-c"))
        assert scene.plan() is None
        change = scene.plan(after=60)
        assert _parts(change) == {"remove": ("net-a",)}, "c was there before"
        assert change is not None
        scene.update_is_done(change, joined=("net-c",))
        assert scene.attached == ["net-c"]
        assert JOINED_LABEL not in scene.own["Spec"]["Labels"]

    def test_proxies_elsewhere_are_never_plugged_in(self) -> None:
        scene = Scene(attachable=True)
        scene.container = ""
        scene.plan("net-a")
        assert _parts(scene.plan("net-a", after=PATIENCE)) == {"add": ("net-a",)}

    def due(self, scene: Scene) -> Change:
        """The change that joins net-a."""
        scene.plan("net-a")
        change = scene.plan("net-a", after=PATIENCE)
        assert change is not None
        return change


class TestRefused:
    def test_is_a_problem_until_it_works(self) -> None:
        scene = Scene(attachable=True)
        change = scene.plan("net-a")
        assert change is not None
        scene.planner.failed(change, "no such thing", scene.now)
        [problem] = scene.planner.problems()
        assert problem.service == "lb"
        assert "no such thing" in problem.reason
        scene.here = frozenset({"net-a"})
        scene.plan("net-a")
        assert scene.planner.problems() == ()

    def test_somebody_else_updated_the_service(self) -> None:
        scene = Scene()
        scene.plan("net-a")
        change = scene.plan("net-a", after=PATIENCE)
        assert change is not None
        scene.planner.failed(change, "rpc error: update out of sequence", scene.now)
        assert scene.planner.problems() == ()
        assert scene.plan("net-a", after=PATIENCE) is not None


class TestAllowed:
    def test_only_what_is_listed(self) -> None:
        scene = Scene(attachable=True, networks=("b", "x*"))
        assert _parts(scene.plan("net-a", "net-b")) == {"connect": ("net-b",)}

    def test_off(self) -> None:
        assert Scene(attachable=True, attach_networks=False).plan("net-a") is None

    def test_not_without_knowing_where_the_proxy_is(self) -> None:
        scene = Scene(attachable=True)
        assert (
            scene.planner.plan(scene.state, ProxyLocation(), {"net-a": frozenset()}, scene.now)
            is None
        )


def _parts(change: Change | None) -> dict[str, tuple[str, ...]]:
    """What a change does, without what it does not."""
    assert change is not None
    names = ("connect", "disconnect", "add", "remove")
    return {name: getattr(change, name) for name in names if getattr(change, name)}
