"""Whatever becomes of tasks, a session moves when its task has gone, and then once: to whoever has
the slot now. Two proxies that were started apart agree, with nothing in common but snapshots."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stickyproxy.control.registry import NoConnections, Registry
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.routing.endpoint import Affinity, Pick
from stickyproxy.routing.table import RoutingTable
from tests.routing.balancers import FakeRequest, issued
from tests.specs import service_spec

NAMES = (b"session", b"session_lb")


class Task:
    """One of a slot. It is about to start, runs, is being stopped, or is gone."""

    def __init__(self, name: str, slot: int, version: int) -> None:
        self.name = name
        self.slot = str(slot)
        self.version = version
        self.state = "starting"

    def __repr__(self) -> str:
        return f"{self.name} of slot {self.slot}, {self.state}"


class FollowingProxy:
    """What picks in a proxy."""

    def __init__(self) -> None:
        self.table = RoutingTable({})
        self.registry = Registry(self, NoConnections(), None)

    def pick(self, request: FakeRequest) -> Pick | None:
        route = self.table.match(b"shop.local", b"/")
        assert route is not None
        assert route.cluster is not None
        return route.cluster.balancer.pick(request, ())


class Session:
    """A client with a cookie jar, and the task that its pin was issued for."""

    def __init__(self, number: int, *, app_cookie: bool) -> None:
        self.address = f"192.0.2.{number % 250 + 1}"
        self.jar: dict[bytes, bytes] = {}
        if app_cookie:
            self.jar[b"session"] = b"%032x" % number
        self.home: Task | None = None

    @property
    def request(self) -> FakeRequest:
        jar = {name: [value] for name, value in self.jar.items()}
        return FakeRequest(jar, client_address=self.address)

    def keep(self, cookie: bytes) -> None:
        name, _, value = cookie.partition(b";")[0].partition(b"=")
        assert name in NAMES
        self.jar[name] = value


class Histories(RuleBasedStateMachine):
    """Tasks come and go as with any order of updates, and sessions ask by turns."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[Task] = []
        self.sessions: list[Session] = []
        self.version = 1
        self.count = 0
        self.follower = FollowingProxy()
        for slot in range(1, 4):
            self.begin(slot).state = "running"
        self.publish()

    # --- what becomes of tasks ---

    def begin(self, slot: int | str) -> Task:
        self.count += 1
        task = Task(f"task{self.count}", int(slot), self.version)
        self.tasks.append(task)
        return task

    def those(self, state: str) -> list[Task]:
        return [task for task in self.tasks if task.state == state]

    def one(self, data: st.DataObject, state: str) -> Task | None:
        found = self.those(state)
        return data.draw(st.sampled_from(found)) if found else None

    @rule(data=st.data())
    def starts(self, data: st.DataObject) -> None:
        if task := self.one(data, "starting"):
            task.state = "running"
            self.publish()

    @rule(data=st.data(), successor=st.booleans())
    def is_stopped(self, data: st.DataObject, *, successor: bool) -> None:
        """By an update that stops first, or because the service is scaled down."""
        if task := self.one(data, "running"):
            task.state = "stopping"
            if successor:
                self.begin(task.slot)
            self.publish()

    @rule(data=st.data())
    def ends(self, data: st.DataObject) -> None:
        if task := self.one(data, "stopping"):
            task.state = "gone"
            self.publish()

    @rule(data=st.data())
    def dies(self, data: st.DataObject) -> None:
        if task := self.one(data, "running"):
            task.state = "gone"
            self.begin(task.slot)
            self.publish()

    @rule(data=st.data())
    def is_replaced_start_first(self, data: st.DataObject) -> None:
        if task := self.one(data, "running"):
            self.begin(task.slot).state = "running"
            task.state = "stopping"
            self.publish()

    @rule(data=st.data())
    def gets_a_second_one(self, data: st.DataObject) -> None:
        """For a moment, both run that an update starts first and then stops."""
        if task := self.one(data, "running"):
            self.begin(task.slot).state = "running"
            self.publish()

    @rule(slot=st.integers(1, 6))
    def is_scaled_up(self, slot: int) -> None:
        if not any(each.slot == str(slot) for each in self.alive()):
            self.begin(slot)
            self.publish()

    @rule()
    def is_updated(self) -> None:
        """Also back and forth: what counts is which version is wanted now."""
        self.version = 3 - self.version
        self.publish()

    @rule()
    def is_removed_and_created_again(self) -> None:
        slots = {each.slot for each in self.alive()}
        for task in self.tasks:
            task.state = "gone"
        self.publish()
        for slot in sorted(slots):
            self.begin(slot)
        self.publish()

    def alive(self) -> Iterator[Task]:
        return (each for each in self.tasks if each.state in ("starting", "running"))

    def snapshot(self) -> Snapshot:
        endpoints = tuple(
            EndpointSpec(
                task.name,
                "10.0.0.1:80",
                draining=task.state == "stopping",
                slot=task.slot,
                outdated=task.version != self.version,
            )
            for task in self.tasks
            if task.state in ("running", "stopping")
        )
        coming = self.coming()
        service: ServiceSpec = service_spec(
            "shop",
            ("shop.local",),
            endpoints,
            coming=tuple(sorted(coming)),
            sticky_session_cookie="session",
        )
        return Snapshot("swarm", (service,), realm="one")

    def coming(self) -> set[str]:
        held = {each.slot for each in self.those("running")}
        return {each.slot for each in self.those("starting")} - held

    def publish(self) -> None:
        self.follower.registry.publish(self.snapshot())

    # --- sessions ---

    @rule(app_cookie=st.booleans())
    def a_session_begins(self, *, app_cookie: bool) -> None:
        session = Session(len(self.sessions), app_cookie=app_cookie)
        self.sessions.append(session)
        self.ask(session, self.follower)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), apart=st.booleans())
    def a_session_goes_on(self, data: st.DataObject, *, apart: bool) -> None:
        """Through either of the proxies."""
        session = data.draw(st.sampled_from(self.sessions))
        self.ask(session, self.started_apart() if apart else self.follower)

    def started_apart(self) -> FollowingProxy:
        proxy = FollowingProxy()
        proxy.registry.publish(self.snapshot())
        return proxy

    def ask(self, session: Session, proxy: FollowingProxy) -> None:
        pick = proxy.pick(session.request)
        if pick is None:
            assert not self.those("running")
            return
        cookies = issued(pick)
        task = next(each for each in self.tasks if each.name == pick.endpoint.id)
        if self.those("running"):
            self.judge(session.home, task, pick, moves=bool(cookies))
        for cookie in cookies:
            session.keep(cookie)
            session.home = task

    def judge(self, home: Task | None, task: Task, pick: Pick, *, moves: bool) -> None:
        """The oracle: the least that a session can be moved."""
        assert task.state == "running"
        if home is None:
            assert moves
        elif home.state == "running":
            assert (task, pick.affinity, moves) == (home, Affinity.PINNED, False)
        elif any(each.slot == home.slot for each in self.those("running")):
            assert (task.slot, pick.affinity, moves) == (home.slot, Affinity.SUCCESSOR, True)
        elif home.slot in self.coming():
            assert (pick.affinity, moves) == (Affinity.VISIT, False)
            assert task.version == self.version or not any(
                each.version == self.version for each in self.those("running")
            )
        else:
            assert moves

    @invariant()
    def both_agree(self) -> None:
        """On everybody who has a pin that says something."""
        other = self.started_apart()
        for session in self.sessions:
            if session.home is None or session.home.slot not in {e.slot for e in self.alive()}:
                continue
            one, two = self.follower.pick(session.request), other.pick(session.request)
            assert (one is None) is (two is None)
            if one is not None and two is not None:
                assert one.endpoint.id == two.endpoint.id
                assert (one.affinity, issued(one)) == (two.affinity, issued(two))


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=100, stateful_step_count=40)
