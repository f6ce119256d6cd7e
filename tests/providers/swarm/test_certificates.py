"""providers/swarm/certificates.py, as the reader uses it: certificates that labels name, and every
way in which a name can be wrong."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stickyproxy.model.snapshot import Problem
from stickyproxy.model.tls import Certificate
from stickyproxy.providers.swarm.certificates import CERT, KEY, named_by
from stickyproxy.providers.swarm.reader import Reading, SwarmReader
from stickyproxy.providers.swarm.state import Json, ProxyLocation
from tests.certificates import make_ca, make_certificate, make_key, pem_of_key
from tests.swarm_dicts import config, labels, listing, secret, service, task

CA = make_ca()
ASKS = {"ssl_cert": "web.crt", "ssl_key": "web.key"}


def issued(*hosts: str, days: float = 90.0) -> Certificate:
    """A certificate for these hosts."""
    return make_certificate(hosts, CA, expires=datetime.now(UTC) + timedelta(days=days))


GOOD = issued("demo.local")


class Swarm:
    """One reader, and what it is shown."""

    def __init__(self) -> None:
        self.reader = SwarmReader()
        self.secrets: dict[str, str] = {}
        """What is in which secret, by its name."""
        self.configs: dict[str, str] = {}
        self.known: set[str] | None = None
        """The secrets whose content is known; None: all."""

    def read(self, *services: Json) -> Reading:
        names = self.secrets.keys() if self.known is None else self.known
        contents = {f"id-{name}": self.secrets[name].encode() for name in names}
        found = listing(
            services or [service(marks=labels(**ASKS))],
            [task()],
            secrets=[secret(name) for name in self.secrets],
            configs=[config(name, self.configs[name]) for name in self.configs],
        )
        return self.reader.read(found, ProxyLocation(frozenset({"net-a"})), contents)

    def put(self, certificate: Certificate, name: str = "web") -> None:
        """A certificate as two secrets."""
        self.secrets |= {f"{name}.crt": certificate.chain, f"{name}.key": certificate.key}


@pytest.fixture
def swarm() -> Swarm:
    return Swarm()


def asking(before: Mapping[str, str] | None = None, /, **marks: str) -> Json:
    """A service with these labels, and those that it had before its last update."""
    spec: dict[str, Any] = {}
    made = service(marks=labels(**marks), **spec)
    if before is not None:
        made["PreviousSpec"] = {"Labels": labels(**before)}
    return made


def the_problem(reading: Reading) -> Problem:
    [problem] = reading.snapshot.problems
    return problem


class TestGood:
    def test_from_secrets(self, swarm: Swarm) -> None:
        swarm.put(GOOD)
        reading = swarm.read()
        [found] = reading.snapshot.certificates
        assert (found.hosts, found.chain, found.key) == (("demo.local",), GOOD.chain, GOOD.key)
        assert found.name == "secret web.crt"
        assert reading.secrets == {"id-web.crt": "web.crt", "id-web.key": "web.key"}
        assert reading.unread == frozenset()
        assert reading.snapshot.problems == ()

    def test_from_configs(self, swarm: Swarm) -> None:
        """For the certificate they are as good."""
        swarm.configs["web.crt"] = GOOD.chain
        swarm.secrets["web.key"] = GOOD.key
        reading = swarm.read()
        assert [each.name for each in reading.snapshot.certificates] == ["config web.crt"]
        assert reading.secrets == {"id-web.key": "web.key"}
        assert reading.snapshot.problems == ()

    def test_a_key_in_a_config_is_used_and_reported(self, swarm: Swarm) -> None:
        swarm.configs |= {"web.crt": GOOD.chain, "web.key": GOOD.key}
        reading = swarm.read()
        assert len(reading.snapshot.certificates) == 1
        problem = the_problem(reading)
        assert (problem.label, problem.fatal) == (KEY, False)
        assert "configs are no secrets" in problem.reason

    def test_both_in_one(self, swarm: Swarm) -> None:
        swarm.secrets["web.pem"] = GOOD.key + GOOD.chain
        reading = swarm.read(asking(ssl_cert="web.pem"))
        assert [each.key for each in reading.snapshot.certificates] == [GOOD.key]
        assert reading.snapshot.problems == ()

    def test_names_without_the_stacks(self, swarm: Swarm) -> None:
        swarm.put(GOOD, "shop_web")
        marks = labels(**ASKS) | {"com.docker.stack.namespace": "shop"}
        assert swarm.read(service(marks=marks)).snapshot.certificates
        assert named_by([service(marks=marks)]) == (
            *("shop_web.crt", "shop_web.key", "web.crt", "web.key"),
        )

    def test_names_of_before_the_last_update(self) -> None:
        service_now = asking({"ssl_cert": "old.crt"}, ssl_cert=" new.crt ", ssl_key="")
        assert named_by([service_now]) == ("new.crt", "old.crt")

    @pytest.mark.parametrize("spec", [None, [], "x", {}, {"Labels": None}, {"Labels": ["x"]}])
    def test_odd_services_name_nothing(self, spec: object) -> None:
        assert named_by([{"ID": "x", "Spec": spec, "PreviousSpec": spec}]) == ()

    def test_a_secret_goes_before_a_config(self, swarm: Swarm) -> None:
        swarm.put(GOOD)
        swarm.configs["web.crt"] = issued("other.local").chain
        assert swarm.read().snapshot.problems == ()

    def test_who_asks_for_none_gets_none(self, swarm: Swarm) -> None:
        swarm.put(GOOD)
        reading = swarm.read(service())
        assert (reading.snapshot.certificates, reading.secrets) == ((), {})

    def test_only_for_hosts_of_the_service(self, swarm: Swarm) -> None:
        """Whatever names are in it: those may be another service's."""
        swarm.put(issued("demo.local", "bank.local", "*.shop.local"))
        marks = {"hosts": "demo.local,a.shop.local", "redirects": "b.shop.local,http://x.local"}
        [found] = swarm.read(asking(**ASKS, **marks)).snapshot.certificates
        assert found.hosts == ("demo.local", "a.shop.local", "b.shop.local")

    def test_the_default_one_has_all_its_names(self, swarm: Swarm) -> None:
        swarm.put(issued("demo.local", "*.shop.local"))
        [found] = swarm.read(asking(**ASKS, default_backend="true")).snapshot.certificates
        assert found.hosts == ("demo.local", "*.shop.local")

    def test_two_services_with_one_certificate(self, swarm: Swarm) -> None:
        swarm.put(issued("a.local", "b.local"))
        both = [service(n, labels(**ASKS, hosts=f"{n}.local")) for n in "ab"]
        found = swarm.read(*both).snapshot.certificates
        assert sorted(each.hosts for each in found) == [("a.local",), ("b.local",)]


class TestWrong:
    """Each has an answer: what is wrong, with which label, what to do, and what is shown."""

    @pytest.mark.parametrize(("missing", "label"), [("web.crt", CERT), ("web.key", KEY)])
    def test_no_such_secret(self, swarm: Swarm, missing: str, label: str) -> None:
        swarm.put(GOOD)
        del swarm.secrets[missing]
        reading = swarm.read()
        problem = the_problem(reading)
        assert (problem.label, problem.value) == (label, f'"{missing}"')
        assert problem.reason.startswith(
            "is neither a secret nor a config of this Swarm: create it"
        )
        assert problem.remedy == f"docker secret create {missing} {missing}"
        assert problem.fatal
        assert problem.partial, "the service is published all the same"
        assert [each.name for each in reading.snapshot.services] == ["shop"]

    def test_the_key_does_not_fit(self, swarm: Swarm) -> None:
        swarm.put(GOOD)
        swarm.secrets["web.key"] = pem_of_key(make_key())
        problem = the_problem(swarm.read())
        assert problem.label == KEY
        assert problem.reason.startswith("secret web.key: the key does not fit the certificate")
        assert "(a secret cannot be changed: create one, and name it here)" in problem.reason

    def test_no_certificate(self, swarm: Swarm) -> None:
        swarm.put(GOOD)
        swarm.secrets["web.crt"] = "hello"
        problem = the_problem(swarm.read())
        assert problem.label == CERT
        assert problem.reason.startswith("secret web.crt: the certificate is not PEM")

    def test_only_a_certificate(self, swarm: Swarm) -> None:
        swarm.put(GOOD)
        problem = the_problem(swarm.read(asking(ssl_cert="web.crt")))
        assert problem.reason.startswith(
            "secret web.crt has no private key in it: name the key's secret in "
            "com.docker.lb.ssl_key"
        )

    def test_only_a_key(self, swarm: Swarm) -> None:
        problem = the_problem(swarm.read(asking(ssl_key="web.key")))
        assert (problem.label, problem.fatal) == (KEY, True)
        assert "has no meaning without ssl_cert" in problem.reason

    def test_not_for_this_host(self, swarm: Swarm) -> None:
        """It is shown all the same, and is no worse than a self-made one."""
        swarm.put(issued("other.local"))
        reading = swarm.read()
        assert [each.hosts for each in reading.snapshot.certificates] == [("demo.local",)]
        problem = the_problem(reading)
        assert (problem.label, problem.fatal) == (CERT, False)
        assert problem.reason == (
            "secret web.crt is for other.local, and clients refuse it for demo.local: have one "
            "issued for all hosts of the service, or correct com.docker.lb.hosts"
        )

    def test_not_for_one_of_the_hosts(self, swarm: Swarm) -> None:
        swarm.put(GOOD)
        reading = swarm.read(asking(**ASKS, hosts="demo.local,b.local"))
        assert [each.hosts for each in reading.snapshot.certificates] == [("demo.local",)]
        assert "clients refuse it for b.local" in the_problem(reading).reason

    def test_expired(self, swarm: Swarm) -> None:
        """Shown, if there is none that is better."""
        swarm.put(issued("demo.local", days=-1))
        assert len(swarm.read().snapshot.certificates) == 1

    def test_one_bad_certificate_is_nobody_elses(self, swarm: Swarm) -> None:
        swarm.put(GOOD)
        bad = service("bad", labels(hosts="bad.local", ssl_cert="none", ssl_key="none"))
        reading = swarm.read(service(marks=labels(**ASKS)), bad)
        assert len(reading.snapshot.certificates) == 1
        assert {each.service for each in reading.snapshot.problems} == {"bad"}


class TestRotation:
    def swap(self, swarm: Swarm, new: Certificate) -> Reading:
        """What is shown before is good; then the labels name a new one."""
        swarm.put(GOOD)
        swarm.read()
        swarm.put(new, "new")
        return swarm.read(asking(ASKS, ssl_cert="new.crt", ssl_key="new.key"))

    def test_a_new_one(self, swarm: Swarm) -> None:
        new = issued("demo.local")
        reading = self.swap(swarm, new)
        assert [each.chain for each in reading.snapshot.certificates] == [new.chain]
        assert set(reading.secrets.values()) == {"new.crt", "new.key"}, "the old ones may go"

    def test_one_that_is_not_known_yet(self, swarm: Swarm) -> None:
        """The old one goes on, in silence."""
        swarm.known = {"web.crt", "web.key"}
        reading = self.swap(swarm, issued("demo.local"))
        assert [each.chain for each in reading.snapshot.certificates] == [GOOD.chain]
        assert reading.snapshot.problems == ()
        assert reading.unread == {"id-new.crt", "id-new.key"}
        assert reading.converging

    def test_one_that_is_bad(self, swarm: Swarm) -> None:
        bad = make_certificate(["demo.local"], CA)
        swarm.put(GOOD)
        swarm.read()
        swarm.secrets |= {"new.crt": bad.chain, "new.key": GOOD.key}
        reading = swarm.read(asking(ASKS, ssl_cert="new.crt", ssl_key="new.key"))
        assert [each.chain for each in reading.snapshot.certificates] == [GOOD.chain]
        problem = the_problem(reading)
        assert (problem.fatal, problem.partial) == (True, False)
        assert problem.reason.endswith("; until then secret web.crt goes on")
        assert set(reading.secrets.values()) == {"new.crt", "new.key", "web.crt", "web.key"}

    def test_one_that_is_bad_for_a_process_that_began_after_that(self, swarm: Swarm) -> None:
        """The engine knows what the labels were before the last update."""
        swarm.put(GOOD)
        swarm.secrets |= {"new.crt": "hello", "new.key": "hello"}
        reading = swarm.read(asking(ASKS, ssl_cert="new.crt", ssl_key="new.key"))
        assert [each.chain for each in reading.snapshot.certificates] == [GOOD.chain]

    def test_one_that_has_expired(self, swarm: Swarm) -> None:
        reading = self.swap(swarm, issued("demo.local", days=-1))
        assert [each.chain for each in reading.snapshot.certificates] == [GOOD.chain]
        assert "secret new.crt expired at " in the_problem(reading).reason

    def test_a_secret_that_is_removed_later(self, swarm: Swarm) -> None:
        """The engine does not let it go while it is mounted; somebody may insist."""
        swarm.put(GOOD)
        swarm.read()
        swarm.secrets.clear()
        reading = swarm.read()
        assert [each.chain for each in reading.snapshot.certificates] == [GOOD.chain]
        assert the_problem(reading).label == CERT

    def test_what_is_not_asked_for_any_more_is_forgotten(self, swarm: Swarm) -> None:
        swarm.put(GOOD)
        swarm.read()
        assert swarm.read(service()).snapshot.certificates == ()
        swarm.secrets.clear()
        assert swarm.read().snapshot.certificates == ()
