"""control/certificates.py: which of several certificates counts, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from stickyproxy.config.certificates import self_made
from stickyproxy.control.certificates import mismatches, preferred, problems, rows
from stickyproxy.control.registry import NoConnections, Registry
from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.model.tls import Certificate
from stickyproxy.routing.table import RoutingTable

NOW = 2_000_000_000.0
DAY = 24 * 3600.0


def certificate(
    name: str, *hosts: str, left: float = 60, caveat: str = "", challenge: bool = False
) -> Certificate:
    """It was issued 30 days ago and expires in ``left`` days."""
    return Certificate(
        *(name, hosts, "chain", "key of " + name, NOW - 30 * DAY, NOW + left * DAY, caveat),
        challenge,
    )


def of(provider: str, *certificates: Certificate) -> Snapshot:
    return Snapshot(provider, (), certificates=certificates)


def services(*hosts: str, **options: bool) -> Snapshot:
    return Snapshot("static", (ServiceSpec("shop", hosts, **options),))  # type: ignore[arg-type]


class TestWhichOneCounts:
    @pytest.mark.parametrize(
        ("better", "worse"),
        [
            (of("swarm", certificate("a", left=20)), of("swarm", certificate("b", left=10))),
            (of("certificates", certificate("b", left=1)), of("swarm", certificate("a"))),
            (of("swarm", certificate("b", left=1)), of("acme", certificate("a"))),
            (of("acme", certificate("b", left=1)), of("certificates", certificate("a", left=0))),
            (of("swarm", certificate("a")), of("swarm", certificate("b"))),
            (of("swarm", certificate("a", left=1)), of("certificates", self_made(NOW))),
        ],
    )
    def test_whoever_comes_first(self, better: Snapshot, worse: Snapshot) -> None:
        expected = [*better.certificates, *worse.certificates]
        assert preferred([better, worse], NOW) == expected
        assert preferred([worse, better], NOW) == expected


class TestProblems:
    def test_dates_and_caveats(self) -> None:
        soon, over = certificate("soon", left=10), certificate("over", left=-1)
        odd, good = certificate("odd", caveat="is odd"), certificate("good")
        found = list(problems([of("swarm", soon, over, odd, good)], NOW))
        assert [(each.certificate, each.fatal) for each in found] == [
            ("odd", False),
            ("over", True),
            ("soon", False),
        ]
        assert str(found[0]) == "certificate odd: is odd"

    def test_one_for_a_challenge_has_none(self) -> None:
        assert not [*problems([of("acme", certificate("x", left=-1, challenge=True))], NOW)]


class TestMismatches:
    def found(self, services: Snapshot, *certificates: Certificate) -> list[Problem]:
        return list(mismatches([services, of("certificates", *certificates)]))

    @pytest.mark.parametrize(
        ("hosts", "certified"),
        [
            (["shop.example"], ["shop.example"]),
            (["shop.example"], ["*.example", "else.example"]),
            (["*.example"], ["*.example"]),
        ],
    )
    def test_none(self, hosts: list[str], certified: list[str]) -> None:
        assert self.found(services(*hosts), certificate("x", *certified)) == []

    def test_a_host_without_a_certificate(self) -> None:
        [problem] = self.found(
            services("shop.example", "www.shop.example"), certificate("x", "shop.example")
        )
        assert (problem.service, problem.fatal) == ("shop", False)
        assert problem.reason.startswith("no certificate is for www.shop.example: ")

    def test_a_wildcard_host_of_which_some_names_have_one(self) -> None:
        """The wildcard of a service stands for any number of labels."""
        [problem] = self.found(services("*.example"), certificate("x", "a.b.example"))
        assert problem.service == "shop"

    def test_many_hosts_make_one_sentence(self) -> None:
        [problem] = self.found(services(*(f"{n}.example" for n in range(9))))
        assert "0.example, 1.example, 2.example, 3.example, 4.example and 4 more" in problem.reason

    @pytest.mark.parametrize("option", ["ssl_passthrough", "acme"])
    def test_hosts_whose_certificates_come_from_elsewhere(self, option: str) -> None:
        assert self.found(services("shop.example", **{option: True})) == []

    def test_a_certificate_without_a_host(self) -> None:
        hosts = services("shop.example")
        good, other = certificate("x", "shop.example"), certificate("y", "other.example")
        [problem] = self.found(hosts, good, other)
        assert (problem.certificate, problem.fatal) == ("y", False)
        assert problem.reason.startswith("is for other.example, where no service is published")

    def test_not_if_any_host_is_published(self) -> None:
        hosts = services(default_backend=True)
        assert self.found(hosts, certificate("y", "other.example")) == []

    def test_not_the_default_one(self) -> None:
        assert self.found(services(), certificate("y", "other.example"), certificate("y")) == []
        assert self.found(services(), self_made(NOW)) == []

    def test_not_before_the_file_has_been_read(self) -> None:
        assert [*mismatches([services("shop.example")])] == []
        assert [*mismatches([of("certificates", certificate("x", "shop.example"))])] == []


def test_rows_have_no_keys() -> None:
    found = rows(
        [of("swarm", certificate("x", "shop.example"), certificate("c", challenge=True))], NOW
    )
    assert found == [
        {
            "certificate": "x",
            "provider": "swarm",
            "hosts": ["shop.example"],
            "begins": NOW - 30 * DAY,
            "expires": NOW + 60 * DAY,
            "valid": True,
        }
    ]


class Clients:
    """What is shown to them."""

    def __init__(self) -> None:
        self.told: list[list[str]] = []

    def use(self, certificates: Iterable[Certificate]) -> None:
        self.told.append([each.name for each in certificates])


class Holder:
    table = RoutingTable({})


class TestRegistry:
    def test_tells_the_data_plane_what_changed(self) -> None:
        clients = Clients()
        registry = Registry(Holder(), NoConnections(), None, certificates=clients)
        registry.publish(services("shop.example"))
        assert clients.told == []
        registry.publish(of("swarm", certificate("b", "shop.example")))
        registry.publish(of("certificates", certificate("a", "shop.example")))
        registry.publish(services("other.example"))
        assert clients.told == [["b"], ["a", "b"]]
        registry.publish(of("swarm"))
        assert clients.told[-1] == ["a"]

    def test_problems_come_with_time(self, caplog: pytest.LogCaptureFixture) -> None:
        registry = Registry(Holder(), NoConnections(), None)
        registry.publish(of("swarm", Certificate("x", (), "", "", 0.0, 1.0)))
        [problem] = registry.problems
        registry.review()
        assert registry.problems == (problem,)
        assert caplog.text.count("certificate x: expired at 1970-01-01") == 1

    def test_hosts_without_a_certificate_are_none_where_nobody_has_tls(self) -> None:
        for has_tls in (False, True):
            registry = Registry(Holder(), NoConnections(), None, has_tls=has_tls)
            registry.publish(of("certificates"))
            registry.publish(services("shop.example"))
            assert bool(registry.problems) is has_tls
