"""Containers of one engine that is in no Swarm, and names that Docker resolves to several of them.

The proxy and the application are those of deploy/compose.yml, as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.swarm import images
from tests.swarm.engine import TLS_PORT, Machine, eventually, run
from tests.swarm.load import Load
from tests.swarm.plain import Plain
from tests.swarm.stage import Reply, ask, in_rotation, published, told

COMPOSE = images.CHECKOUT / "deploy" / "compose.yml"
SESSIONS = 60


@pytest.fixture(scope="module")
def machine(archive: Path) -> Iterator[Machine]:
    """It has the images; nothing runs."""
    with Machine(tls=True) as started:
        images.load(started.node, archive)
        yield started


@pytest.fixture
def shop(machine: Machine) -> Iterator[Machine]:
    """The stack of deploy/compose.yml, with three replicas, all of them in rotation."""
    try:
        scale(machine, 3)
        yield machine
    finally:
        compose(machine, "down", "--timeout", "1")


def compose(machine: Machine, *arguments: str) -> None:
    """Run it with the project's own file."""
    run(
        ["docker-compose", "-f", COMPOSE, "-p", "shop", *arguments],
        env=machine.node.environ,
        cwd=machine.directory,
    )


def scale(machine: Machine, replicas: int) -> None:
    compose(machine, "up", "-d", "--scale", f"demo={replicas}", "--timeout", "1")
    eventually(
        f"{replicas} replicas are in rotation",
        lambda: in_rotation(machine, [machine.node.address], replicas),
    )


def demo_containers(machine: Machine) -> list[str]:
    """Their short ids, which are the instances' names."""
    listed = machine.node.api("/containers/json", label="com.docker.compose.service=demo")
    return sorted(each["Id"][:12] for each in listed)


def said_of(machine: Machine, proxy: str, service: str) -> dict[str, Any]:
    """The row of a service in what ``stickyproxy services`` says in a proxy's container."""
    command = "stickyproxy services --json || [ $? -eq 3 ]"  # 3: a service is not as declared
    output = machine.node.docker("exec", proxy, "sh", "-c", command)
    [row] = [each for each in json.loads(output) if each["service"] == service]
    return dict(row)


def pinned(machine: Machine, host: str, target: str, times: int) -> list[str]:
    """Who answered one client that keeps its cookies, connection by connection."""
    jar = machine.directory / f"{host}.cookies"
    jar.unlink(missing_ok=True)
    cookies = ("-c", str(jar), "-b", str(jar))
    return [ask(machine, target, *cookies, host=host).instance for _ in range(times)]


def test_scaled_up_and_down_no_session_moves_that_need_not(shop: Machine) -> None:
    target = shop.node.address
    before = set(demo_containers(shop))
    with Load(shop, [target], sessions=SESSIONS) as load:
        load.watch(rounds=2)
        scale(shop, 5)
        load.watch(rounds=3)
    told.append(f"compose, 3 -> 5: {load.report}")
    assert load.report.failures == []
    assert load.report.moves == []
    assert load.report.instances.keys() == before

    with Load(shop, [target], sessions=SESSIONS) as load:
        load.watch(rounds=2)
        scale(shop, 2)
        load.watch(rounds=3)
    told.append(f"compose, 5 -> 2: {load.report}")
    left = set(demo_containers(shop))
    assert load.report.failures == []
    assert [move for move in load.report.moves if move.came_from in left] == []
    assert load.report.instances.keys() == left


def test_one_is_killed_and_the_others_keep_their_sessions(shop: Machine) -> None:
    victim, *others = demo_containers(shop)
    with Load(shop, [shop.node.address], sessions=SESSIONS) as load:
        load.watch(rounds=2)
        shop.node.docker("kill", victim)
        load.watch(rounds=3)
    told.append(f"compose, one of 3 killed: {load.report}")
    assert load.report.failures == []
    assert [move for move in load.report.moves if move.came_from != victim] == []
    assert sorted(load.report.instances) == others


def test_stopped_it_is_503_and_removed_it_is_404(shop: Machine) -> None:
    target = shop.node.address
    compose(shop, "stop", "--timeout", "1", "demo")
    eventually("503", lambda: ask(shop, target).status == 503)
    compose(shop, "rm", "-f", "demo")
    eventually("404", lambda: ask(shop, target).status == 404)
    scale(shop, 3)


def test_health_decides_who_is_in_rotation(shop: Machine) -> None:
    """Containers that are started by hand, as replicas of one service."""
    node, target = shop.node, shop.node.address
    options = (
        *("--network", "shop_apps", "--user", "0:0"),
        *(
            "--label",
            "com.docker.compose.project=hand",
            "--label",
            "com.docker.compose.service=ill",
        ),
        *("--label", "com.docker.lb.hosts=ill.local", "--label", "com.docker.lb.port=8080"),
        *("--label", "com.docker.lb.sticky_session_cookie=session"),
        *("--health-cmd", "test ! -e /tmp/ill && test -e /tmp/well"),
        *("--health-interval", "1s", "--health-retries", "1", "--health-start-period", "600s"),
    )
    names = [node.docker("run", "-d", *options, images.DEMO_IMAGE).strip()[:12] for _ in range(3)]
    try:
        for name in names[:2]:
            node.docker("exec", name, "touch", "/tmp/well")  # in a container
        eventually(
            "the third is still starting",
            lambda: in_rotation(shop, [target], 2, host="ill.local"),
        )
        node.docker("exec", names[2], "touch", "/tmp/well")
        eventually("it has started", lambda: in_rotation(shop, [target], 3, host="ill.local"))
        with Load(shop, [target], host="ill.local", sessions=SESSIONS) as load:
            load.watch(rounds=2)
            node.docker("exec", names[0], "touch", "/tmp/ill")
            eventually("it is out", lambda: in_rotation(shop, [target], 2, host="ill.local"))
            load.watch(rounds=2)
        assert load.report.failures == []
        assert {move.came_from for move in load.report.moves} == {names[0]}
        assert load.report.instances.keys() == {*names[1:]}
        [proxy] = node.api("/containers/json", label="com.docker.compose.service=proxy")
        row = said_of(shop, proxy["Id"], "hand/ill")
        assert "1 of 3 containers are unhealthy" in str(row["problems"])
    finally:
        node.docker("rm", "-f", *names)


def test_a_network_of_its_own_is_told_with_the_command_that_joins_it(shop: Machine) -> None:
    node, target = shop.node, shop.node.address
    node.docker("network", "create", "apart")
    labels = ("com.docker.lb.hosts=apart.local", "com.docker.lb.port=8080")
    marks = [f"--label={label}" for label in labels]
    node.docker("run", "-d", "--name", "apart", "--network", "apart", *marks, images.DEMO_IMAGE)
    [proxy] = node.api("/containers/json", label="com.docker.compose.service=proxy")
    try:
        eventually("503", lambda: ask(shop, target, host="apart.local").status == 503)
        [problem] = said_of(shop, proxy["Id"], "apart")["problems"]
        assert problem["remedy"] == f"docker network connect apart {proxy['Names'][0].strip('/')}"
        node.shell(problem["remedy"])
        published(shop, target, host="apart.local")
    finally:
        node.docker("rm", "-f", "apart")
        node.docker("network", "disconnect", "apart", proxy["Id"])
        node.docker("network", "rm", "apart")


def test_from_another_machine_by_published_ports(machine: Machine) -> None:
    node, here = machine.node, machine.add_client_address(1)
    engine = "\n".join(
        [
            f'[[listeners]]\naddress = "{here}:80"\n[providers.docker]',
            f'endpoint = "tcp://{node.address}:{TLS_PORT}"',
            f'tls_ca = "{node.directory}/ca.pem"',
            f'tls_cert = "{node.directory}/client.pem"',
            f'tls_key = "{node.directory}/client.key"',
        ]
    )
    labels = ("com.docker.lb.hosts=far.local", "com.docker.lb.port=8080")
    marks = [f"--label={label}" for label in labels]
    with Plain(machine, "afar", "serve", engine, ready="serves on") as proxy:
        run_options = ("run", "-d", "--name", "far", *marks)
        node.docker(*run_options, images.DEMO_IMAGE)
        eventually("it is told", lambda: "publishes port 8080 nowhere" in proxy.log)
        node.docker("rm", "-f", "far")
        node.docker(*run_options, "-p", "8080", images.DEMO_IMAGE)
        try:
            published(machine, here, host="far.local")
            reply: Reply = ask(machine, here, host="far.local")
            assert reply.address.startswith(f"{node.address}:")
        finally:
            node.docker("rm", "-f", "far")


def test_a_client_of_a_name_stays_at_one_of_its_addresses(machine: Machine) -> None:
    """Docker's DNS answers with all containers of an alias, in an order that changes."""
    node, target = machine.node, machine.node.address
    node.docker("network", "create", "named")
    config = machine.directory / "named.toml"
    config.write_text(
        '[[listeners]]\naddress = "0.0.0.0:8080"\n[admin]\naddress = "127.0.0.1:8081"\n'
        '[[services]]\nname = "capp"\nhosts = ["c.local"]\nendpoints = ["capp:8080"]\n'
        'sticky_session_cookie = "session"\n'
    )
    proxy = ("--name", "proxy", "-p", "80:8080", "-v", f"{config}:/etc/stickyproxy/config.toml:ro")
    started = ["proxy"]
    try:
        node.docker("run", "-d", "--network", "named", *proxy, images.PROXY_IMAGE)
        eventually("nobody is there", lambda: ask(machine, target, host="c.local").status == 503)
        [problem] = said_of(machine, "proxy", "capp")["problems"]
        assert "capp does not resolve" in problem["reason"]
        alias = ("--network", "named", "--network-alias", "capp")
        started += [
            node.docker("run", "-d", *alias, images.DEMO_IMAGE).strip()[:12] for _ in range(3)
        ]
        eventually(
            "all three are in rotation",
            lambda: in_rotation(machine, [target], 3, host="c.local"),
        )
        assert len(set(pinned(machine, "c.local", target, 30))) == 1
        with Load(machine, [target], host="c.local", sessions=SESSIONS) as load:
            load.watch(rounds=2)
            node.docker("kill", started[1])
            eventually(
                "it is out", lambda: in_rotation(machine, [target], 2, host="c.local"), within=60
            )
            load.watch(rounds=2)
        told.append(f"a name with three addresses, one killed: {load.report}")
        assert {move.came_from for move in load.report.moves} == {started[1]}
        assert load.report.failures == []
    finally:
        node.docker("rm", "-f", *started)
        node.docker("network", "rm", "named")
