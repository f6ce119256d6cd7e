"""providers/swarm/contents.py: what is known of secrets, and for how long one waits for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from stickyproxy.base.errors import ProviderError
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.providers.swarm.contents import PATIENCE, RETRY, SecretContents
from stickyproxy.providers.swarm.custodian import custodian_spec
from stickyproxy.providers.swarm.reader import Reading
from stickyproxy.providers.swarm.state import Json, ProxyLocation
from tests.swarm_dicts import listing, service

HERE = ProxyLocation(service="proxy", host="proxy")


class Custodian:
    """Has some secrets, or cannot be asked."""

    def __init__(self) -> None:
        self.has: dict[str, bytes] = {}
        self.trouble = ""
        self.now = 100.0
        self.contents = SecretContents(self, lambda: self.now)

    def read_secrets(self, custodian: Json, secrets: Collection[str]) -> Mapping[str, bytes]:
        """As an engine would."""
        assert custodian["ID"] == "id-custodian"
        if self.trouble:
            raise ProviderError(self.trouble)
        return {each: self.has[each] for each in secrets if each in self.has}

    def ask(self, *secrets: str, there: bool = True) -> bool:
        """Ask for these by id, with a custodian in the Swarm or without."""
        proxy = service("proxy", {})
        proxy["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] = "sp"
        spec = custodian_spec(proxy, {"id-a": "a"})
        custodian = {"ID": "id-custodian", "Spec": spec}
        state = listing([proxy, *([custodian] if there else [])])
        return self.contents.read(state, HERE, secrets)

    def need(self, *names: str) -> None:
        """Labels name these, and no others."""
        needed = {f"id-{name}": name for name in names}
        unread = frozenset(needed.keys() - self.contents.known.keys())
        self.contents.note(Reading(Snapshot("swarm", ()), False, {}, needed, unread))


def test_what_has_been_read_is_known_until_nobody_needs_it() -> None:
    custodian = Custodian()
    custodian.has = {"id-a": b"1", "id-b": b"2"}
    custodian.need("a", "b", "c")
    assert custodian.ask("id-a", "id-b", "id-c")
    assert custodian.contents.known == {"id-a": b"1", "id-b": b"2"}
    custodian.need("b")
    assert custodian.contents.known == {"id-b": b"2"}


def test_what_tells_nothing_new_is_no_news() -> None:
    custodian = Custodian()
    custodian.need("a")
    assert not custodian.ask("id-a")
    assert not custodian.ask("id-a", there=False)


def test_they_are_awaited_for_a_while_and_then_it_is_said_why() -> None:
    custodian = Custodian()
    awaited = [custodian.contents.are_awaited]
    custodian.need("a")
    custodian.ask("id-a", there=False)
    awaited.append(custodian.contents.are_awaited)
    assert custodian.contents.problems("proxy") == ()
    custodian.now += PATIENCE
    awaited.append(custodian.contents.are_awaited)
    assert awaited == [False, True, False]
    [problem] = custodian.contents.problems("proxy")
    assert problem.fatal
    assert problem.reason == (
        "secrets that labels name cannot be read (a): "
        "service stickyproxy-secrets has no task on this node that has them"
    )
    assert problem.remedy == "docker service ps --no-trunc stickyproxy-secrets"
    custodian.trouble = "exec is forbidden"
    custodian.ask("id-a")
    assert "(a): exec is forbidden" in custodian.contents.problems("proxy")[0].reason
    custodian.need()
    assert custodian.contents.problems("proxy") == ()


def test_one_that_cannot_be_asked_is_left_alone_for_a_while() -> None:
    """Asking may take seconds, in which nothing is listed."""
    custodian = Custodian()
    custodian.has = {"id-a": b"1"}
    custodian.need("a")
    custodian.trouble = "it hangs"
    custodian.ask("id-a")
    custodian.trouble = ""
    assert not custodian.ask("id-a")
    custodian.now += RETRY[0]
    assert custodian.ask("id-a")


def test_the_next_one_is_awaited_anew() -> None:
    custodian = Custodian()
    custodian.need("a")
    custodian.now += PATIENCE
    custodian.has = {"id-a": b"1"}
    custodian.ask("id-a")
    custodian.need("a")
    custodian.need("a", "b")
    assert custodian.contents.are_awaited
