"""providers/docker: what a listing of containers comes to. With an engine: tests/swarm."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.providers.docker.reader import ContainerReader
from stickyproxy.providers.docker.state import ContainersState, Json, containers_in

BRIDGE, APPS, OTHER = "n-bridge", "n-apps", "n-other"
PROXY = "p" * 64


def labels(**values: str) -> dict[str, str]:
    given = {"hosts": "demo.local", "port": "8080", **values}
    return {f"com.docker.lb.{key}": value for key, value in given.items() if value}


def composed(service: str = "web", project: str = "shop", **values: str) -> dict[str, str]:
    prefix = "com.docker.compose."
    marks = {f"{prefix}project": project, f"{prefix}service": service, f"{prefix}oneoff": "False"}
    return marks | labels(**values)


def container(
    identity: str,
    marks: dict[str, str] | None = None,
    *,
    name: str = "",
    state: str = "running",
    created: int = 1,
    networks: dict[str, str] | None = None,
    ports: Collection[Json] = (),
    mode: str = "default",
) -> Json:
    """As ``GET /containers/json`` has it; ``networks``: id -> address."""
    networks = {APPS: f"10.0.1.{identity[-1]}"} if networks is None else networks
    return {
        "Id": identity,
        "Names": [f"/{name or identity}"],
        "Created": created,
        "Labels": labels() if marks is None else marks,
        "State": state,
        "Ports": list(ports),
        "HostConfig": {"NetworkMode": mode},
        "NetworkSettings": {
            "Networks": {
                network.removeprefix("n-"): {"NetworkID": network, "IPAddress": networks[network]}
                for network in networks
            }
        },
    }


DRAIN = {"admin_state": "drain"}


def proxy(*networks: str) -> Json:
    there = dict.fromkeys(networks or (APPS,), "10.0.1.200")
    return container(PROXY, {}, name="proxy", networks=there)


def published(target: int, port: int, address: str = "0.0.0.0") -> Json:
    return {"PrivatePort": target, "PublicPort": port, "Type": "tcp", "IP": address}


def state(
    *listed: Json,
    starting: Collection[str] = (),
    unhealthy: Collection[str] = (),
    machine: str = "127.0.0.1",
) -> ContainersState:
    containers = containers_in(listed, starting, unhealthy)
    own = next((each for each in containers if each.id == PROXY), None)
    return ContainersState("engine", containers, own, machine)


def read(*listed: Json, **options: Any) -> Snapshot:
    return ContainerReader().read(state(*listed, **options))


def spec(*listed: Json, **options: Any) -> ServiceSpec:
    """The only service of a listing without problems."""
    snapshot = read(*listed, **options)
    assert snapshot.problems == ()
    [only] = snapshot.services
    return only


def addresses(*listed: Json, **options: Any) -> list[str]:
    return [each.address for each in spec(*listed, **options).endpoints]


def problem(*listed: Json, **options: Any) -> Problem:
    [only] = read(*listed, **options).problems
    return only


class TestServices:
    def test_one(self) -> None:
        found = read(proxy(), container("c1", labels(sticky_session_cookie="session"), name="web"))
        assert (found.provider, found.realm, found.problems) == ("docker", "engine", ())
        [only] = found.services
        assert (only.name, only.hosts) == ("web", ("demo.local",))
        assert only.endpoints == (EndpointSpec("c1", "10.0.1.1:8080"),)

    def test_others_are_left_alone(self) -> None:
        assert read(proxy(), container("c1", {"a": "b"})) == Snapshot("docker", (), (), "engine")

    def test_the_containers_of_a_compose_service_are_its_replicas(self) -> None:
        listed = (container(f"c{n}", composed(), name=f"shop-web-{n}") for n in (3, 1, 2))
        only = spec(proxy(), *listed)
        assert only.name == "shop/web"
        assert [each.id for each in only.endpoints] == ["c1", "c2", "c3"]

    def test_they_are_numbered_as_compose_does(self) -> None:
        number = "com.docker.compose.container-number"
        listed = (container(f"c{n}", composed() | {number: str(4 - n)}) for n in (1, 2, 3))
        assert spec(proxy(), *listed).numbers() == [3, 2, 1]

    def test_each_says_itself_what_is_wanted_of_it(self) -> None:
        listed = [
            container(f"c{number}", composed(**wanted), created=number)
            for number, wanted in ((1, {"admin_state": "maintenance"}), (2, {}), (3, DRAIN))
        ]
        only = spec(proxy(), *listed)
        assert only.admin_state == "ready"
        states = [each.admin_state for each in only.endpoints]
        assert states == ["maintenance", "ready", "drain"]

    def test_those_of_another_project_are_not(self) -> None:
        found = read(
            proxy(),
            container("c1", composed(project="a", hosts="a.example")),
            container("c2", composed(project="b", hosts="b.example")),
        )
        assert [each.name for each in found.services] == ["a/web", "b/web"]

    def test_what_is_no_replica(self) -> None:
        one_off = composed() | {"com.docker.compose.oneoff": "True"}
        task = labels() | {"com.docker.swarm.task.id": "t1"}
        assert read(proxy(), container("c1", one_off), container("c2", task)).services == ()

    def test_the_port_is_inferred_from_what_the_image_exposes(self) -> None:
        ports = [{"PrivatePort": 9000, "Type": "tcp"}, {"PrivatePort": 53, "Type": "udp"}]
        assert addresses(proxy(), container("c1", labels(port=""), ports=ports)) == [
            "10.0.1.1:9000"
        ]

    @pytest.mark.parametrize(
        ("ours", "is_published"), [(None, True), ("eu", True), ("us", False), ("", False)]
    )
    def test_service_cluster(self, ours: str | None, is_published: bool) -> None:
        found = state(proxy(), container("c1", labels(service_cluster="eu")))
        assert bool(ContainerReader(ours).read(found).services) == is_published


class TestWhoIsInRotation:
    @pytest.mark.parametrize("health", ["starting", "unhealthy"])
    def test_not_who_is_not_healthy(self, health: str) -> None:
        listed = proxy(), container("c1", composed()), container("c2", composed())
        [only] = read(*listed, **{health: ["c2"]}).services
        assert [each.id for each in only.endpoints] == ["c1"]

    def test_who_is_unhealthy_is_told(self) -> None:
        listed = (
            proxy(),
            container("c1", composed()),
            container("c2", composed(), name="shop-web-2"),
        )
        found = problem(*listed, unhealthy=["c2"])
        assert found.reason == "1 of 2 containers are unhealthy and get no requests"
        assert found.remedy == "docker inspect --format '{{json .State.Health}}' shop-web-2"
        assert not found.fatal

    @pytest.mark.parametrize("other", ["exited", "created", "restarting", "paused", "dead"])
    def test_not_who_does_not_run(self, other: str) -> None:
        listed = proxy(), container("c1", composed()), container("c2", composed(), state=other)
        assert [each.id for each in spec(*listed).endpoints] == ["c1"]

    def test_what_stopped_before_it_was_seen_is_not_published(self) -> None:
        assert read(proxy(), container("c1", state="exited")).services == ()

    def test_what_stops_keeps_its_host_until_it_is_removed(self) -> None:
        reader = ContainerReader()
        assert reader.read(state(proxy(), container("c1"))).services[0].endpoints
        [stopped] = reader.read(state(proxy(), container("c1", state="exited"))).services
        assert (stopped.hosts, stopped.endpoints) == (("demo.local",), ())
        assert reader.read(state(proxy())).services == ()

    def test_what_stops_leaves_its_host_to_another(self) -> None:
        reader = ContainerReader()
        before = container("c1", name="old")
        reader.read(state(proxy(), before))
        found = reader.read(
            state(proxy(), before | {"State": "exited"}, container("c2", name="new"))
        )
        assert {each.name: each.hosts for each in found.services} == {
            "new": ("demo.local",),
            "old": (),
        }


class TestLabelsOfReplicas:
    def test_the_newest_decides_and_each_is_reached_by_its_own(self) -> None:
        only = spec(
            proxy(),
            container("c1", composed(hosts="old.example", port="8080"), created=1),
            container("c2", composed(hosts="new.example", port="9090"), created=2),
        )
        assert only.hosts == ("new.example",)
        assert [each.address for each in only.endpoints] == ["10.0.1.1:8080", "10.0.1.2:9090"]

    def test_bad_ones_go_by_what_an_older_container_says(self) -> None:
        found = read(
            proxy(),
            container("c1", composed(), created=1),
            container("c2", composed(ip_hash="yes"), created=2),
        )
        [only] = found.services
        assert [each.id for each in only.endpoints] == ["c1", "c2"]
        [bad] = found.problems
        assert (bad.service, bad.label, bad.fatal) == ("shop/web", "com.docker.lb.ip_hash", True)

    def test_bad_ones_go_by_what_was_good(self) -> None:
        reader = ContainerReader()
        reader.read(state(proxy(), container("c1", composed())))
        found = reader.read(state(proxy(), container("c2", composed(ip_hash="yes"))))
        [only] = found.services
        assert [each.id for each in only.endpoints] == ["c2"]

    def test_but_not_when_they_ask_for_encryption(self) -> None:
        reader = ContainerReader()
        reader.read(state(proxy(), container("c1", composed())))
        found = reader.read(state(proxy(), container("c2", composed(ssl_only="ture"))))
        assert found.services == ()
        assert found.problems[0].fatal

    def test_an_older_one_that_asks_for_encryption_is_not_served_in_the_clear(self) -> None:
        only = spec(
            proxy(),
            container("c1", composed(ssl_backend="true"), created=1),
            container("c2", composed(), created=2),
        )
        assert [each.id for each in only.endpoints] == ["c2"]

    @pytest.mark.parametrize("label", ["ssl_passthrough", "ssl_backend", "ssl_only"])
    def test_encryption_that_can_be_had_is_served(self, label: str) -> None:
        asked = composed(**{label: "true"})
        only = spec(proxy(), container("c1", asked, created=1), container("c2", asked, created=2))
        assert [each.id for each in only.endpoints] == ["c1", "c2"]

    @pytest.mark.parametrize("label", ["ssl_passthrough", "ssl_backend"])
    def test_an_older_one_that_speaks_no_tls_is_not_sent_any(self, label: str) -> None:
        only = spec(
            proxy(),
            container("c1", composed(), created=1),
            container("c2", composed(**{label: "true"}), created=2),
        )
        assert [each.id for each in only.endpoints] == ["c2"]

    def test_what_is_passed_through_stays_so_by_its_last_good_labels(self) -> None:
        reader = ContainerReader()
        good, bad = (composed(ssl_passthrough="true", port=port) for port in ("443", "44e"))
        reader.read(state(proxy(), container("c1", good)))
        for _ in range(2):
            found = reader.read(state(proxy(), container("c2", bad)))
            [only] = found.services
            assert only.ssl_passthrough

    def test_without_labels_it_is_published_no_more(self) -> None:
        reader = ContainerReader()
        reader.read(state(proxy(), container("c1", composed())))
        bare = {key: value for key, value in composed().items() if "compose" in key}
        assert reader.read(state(proxy(), container("c2", bare))).services == ()

    def test_a_remedy_for_compose(self) -> None:
        found = problem(proxy(), container("c1", composed(port="")))
        assert found.remedy == (
            "set the label com.docker.lb.port=8080, then docker compose -p shop up -d web"
        )

    def test_a_remedy_for_a_single_container(self) -> None:
        found = problem(proxy(), container("c1", labels(ip_hash="maybe"), name="web"))
        assert found.remedy == (
            "remove the label com.docker.lb.ip_hash, then docker rm -f web and docker run it again"
        )

    def test_a_typo_is_corrected(self) -> None:
        marks = composed(host="demo.local") | {}
        del marks["com.docker.lb.hosts"]
        found = problem(proxy(), container("c1", marks))
        assert found.remedy.startswith(
            "write com.docker.lb.hosts=demo.local in place of the label com.docker.lb.host, then "
        )

    def test_an_example_of_a_host_is_one(self) -> None:
        found = problem(proxy(), container("c1", composed(hosts="a b", port="80")))
        assert "com.docker.lb.hosts=shop-web.example.com" in found.remedy

    def test_there_are_no_secrets(self) -> None:
        found = problem(proxy(), container("c1", composed(ssl_cert="a.crt", ssl_key="a.key")))
        assert found.label == "com.docker.lb.ssl_cert"
        assert "name the files of the certificate and its key in [[certificates]]" in found.reason

    def test_vip_means_nothing(self) -> None:
        found = problem(proxy(), container("c1", composed(backend_mode="vip")))
        assert "containers have no virtual IP" in found.reason
        assert not found.fatal

    def test_a_lookalike_is_told(self) -> None:
        marks = {"com.docker.lb.hosts": "demo.local", "com.docker.lb.port": "80"}
        found = problem(proxy(), container("c1", marks | {"com.docker.1b.hosts": "x"}))
        assert "looks like com.docker.lb.hosts" in found.reason


class TestFromAContainer:
    def test_a_shared_network(self) -> None:
        app = container("c1", networks={OTHER: "10.0.9.1", APPS: "10.0.1.1"})
        assert addresses(proxy(APPS), app) == ["10.0.1.1:8080"]

    def test_the_network_of_the_label(self) -> None:
        app = container(
            "c1", labels(network="other"), networks={OTHER: "10.0.9.1", APPS: "10.0.1.1"}
        )
        assert addresses(proxy(APPS, OTHER), app) == ["10.0.9.1:8080"]

    def test_compose_puts_its_project_before(self) -> None:
        app = container("c1", composed(network="back"), networks={"n-shop_back": "10.0.9.1"})
        assert addresses(proxy("n-shop_back"), app) == ["10.0.9.1:8080"]

    def test_ipv6(self) -> None:
        app = container("c1")
        there = app["NetworkSettings"]["Networks"]["apps"]
        there |= {"IPAddress": "", "GlobalIPv6Address": "2001:db8::1"}
        assert addresses(proxy(), app) == ["[2001:db8::1]:8080"]

    def test_one_without_an_address_yet(self) -> None:
        assert addresses(proxy(), container("c1", networks={APPS: ""})) == []

    def test_no_shared_network(self) -> None:
        found = problem(proxy(OTHER), container("c1"))
        assert 'the proxy is not on its network "apps"' in found.reason
        assert found.remedy == "docker network connect apps proxy"
        assert found.fatal

    def test_a_label_that_names_another(self) -> None:
        found = problem(proxy(), container("c1", labels(network="nope"), name="web"))
        assert found.reason == 'the container is not on a network "nope": write one of apps'
        assert found.label == "com.docker.lb.network"
        assert found.remedy.startswith("set the label com.docker.lb.network=apps, then ")

    def test_a_label_that_names_one_that_the_proxy_is_not_on(self) -> None:
        app = container("c1", labels(network="other"), networks={OTHER: "10.0.9.1"})
        assert problem(proxy(APPS), app).remedy == "docker network connect other proxy"

    def test_the_network_of_the_machine(self) -> None:
        app = container("c1", networks={"n-host": ""}, mode="host")
        assert "on the network of the machine" in problem(proxy(), app).reason

    def test_no_network(self) -> None:
        app = container("c1", networks={}, mode="container:c9")
        assert "is on no network of its own" in problem(proxy(), app).reason

    def test_one_that_cannot_be_reached_stops_no_other(self) -> None:
        apart = container("c2", composed(), networks={OTHER: "10.0.9.1"})
        found = read(proxy(), container("c1", composed()), apart)
        assert [each.id for each in found.services[0].endpoints] == ["c1"]
        assert [each.fatal for each in found.problems] == [False]


class TestFromTheMachine:
    @pytest.mark.parametrize(
        ("ports", "machine", "address"),
        [
            ([published(8080, 32768)], "127.0.0.1", "127.0.0.1:32768"),
            (
                [published(8080, 32769, "::"), published(8080, 32768)],
                "127.0.0.1",
                "127.0.0.1:32768",
            ),
            ([published(8080, 1, "127.0.0.1")], "127.0.0.1", "127.0.0.1:1"),
            ([published(8080, 1, "192.0.2.7")], "127.0.0.1", "192.0.2.7:1"),
            ([published(9, 2), published(8080, 1)], "192.0.2.1", "192.0.2.1:1"),
            ([published(8080, 1, "192.0.2.7")], "engine.example", "192.0.2.7:1"),
        ],
    )
    def test_a_published_port(self, ports: list[Json], machine: str, address: str) -> None:
        assert addresses(container("c1", ports=ports), machine=machine) == [address]

    def test_no_published_port(self) -> None:
        found = problem(container("c1", composed(), ports=[published(9, 2)]))
        assert "publishes port 8080 nowhere" in found.reason
        assert found.remedy == (
            'set ports: ["127.0.0.1::8080"], then docker compose -p shop up -d web'
        )

    def test_a_loopback_address_of_another_machine(self) -> None:
        app = container("c1", ports=[published(8080, 1, "127.0.0.1")])
        assert "the other machine's own" in problem(app, machine="192.0.2.1").reason

    def test_the_network_of_the_machine(self) -> None:
        assert addresses(container("c1", networks={}, mode="host")) == ["127.0.0.1:8080"]

    def test_a_network_that_the_label_names(self) -> None:
        assert addresses(container("c1", labels(network="apps"))) == ["10.0.1.1:8080"]
