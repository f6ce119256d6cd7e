"""Two planes on three nodes: a controller on the manager, a proxy on each node.

The tests share one Swarm and run in this order, the node that dies last.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.swarm import images
from tests.swarm.engine import Node, Swarm, at_once, eventually
from tests.swarm.load import Load
from tests.swarm.stage import (
    Instances,
    ask,
    create_demo,
    deploy,
    in_rotation,
    moves_table,
    ready,
    service_settled,
    settled,
    told,
)

REPLICAS = 6
OUTAGE = 20.0
"""Seconds for which the only engine that knows the services is stopped."""


@pytest.fixture(scope="module")
def three(archive: Path) -> Iterator[Swarm]:
    """A manager and two workers, with the split stack and the demo service on all of them."""
    with Swarm(nodes=3) as swarm:
        at_once(lambda node: images.load(node, archive), swarm.nodes)
        token = swarm.directory / "token"
        token.write_text(secrets.token_hex(32))
        swarm.manager.docker("secret", "create", "stickyproxy_token", token)
        swarm.manager.docker("network", "create", "-d", "overlay", "demo")
        create_demo(
            swarm.manager,
            *("hosts=demo.local", "sticky_session_cookie=session", "port=8080"),
            replicas=REPLICAS,
            options=["--replicas-max-per-node=4"],
        )
        deploy(swarm, "stack-split.yml")
        # The controller lets a connector join the service's network beside each proxy.
        eventually("there are connectors", lambda: _are_connected(swarm), within=180)
        eventually("the service listens", lambda: ready(swarm, "demo", REPLICAS))
        _all_in_rotation(swarm, swarm.nodes, REPLICAS)
        yield swarm


def _are_connected(swarm: Swarm) -> bool:
    """Whether there is a connector for the network "demo" on every node, and the proxies' own
    service is not on it."""
    network = swarm.manager.api("/networks/demo")["Id"]
    template = swarm.manager.api("/services/stickyproxy_proxy")["Spec"]["TaskTemplate"]
    assert network not in {each["Target"] for each in template["Networks"]}
    connected = service_settled(swarm.manager, "stickyproxy-net-demo", len(swarm.nodes))
    return connected and settled(swarm.manager, "stickyproxy")


def addresses(*nodes: Node) -> list[str]:
    """Where the proxies of these nodes are reached."""
    return [node.address for node in nodes]


def instances_on(swarm: Swarm, node: Node) -> set[str]:
    """The instances of the demo service that run on a node."""
    found = swarm.manager.api(f"/nodes/{node.name}")
    return {
        instance
        for instance, task in swarm.manager.running("demo").items()
        if task["NodeID"] == found["ID"]
    }


def _all_in_rotation(swarm: Swarm, nodes: Sequence[Node], replicas: int) -> None:
    """Wait until that many replicas have new sessions from each of these nodes.

    Patiently: engines look only once a minute for a manager they have lost, and until they have
    found it again, the overlay networks do not reach across.
    """
    eventually(
        f"{replicas} tasks are in rotation",
        lambda: in_rotation(swarm, addresses(*nodes), replicas),
        within=180,
    )


def test_a_cookie_of_one_node_is_good_on_the_others(three: Swarm) -> None:
    for session in range(12):
        first, *others = addresses(*three.nodes[session % 3 :], *three.nodes[: session % 3])
        jar = three.directory / f"cookies{session}.txt"
        options = ("-c", str(jar), "-b", str(jar))
        answers = [ask(three, first, *options)]
        # curl would not send to one address what another has set.
        jar.write_text(jar.read_text().replace(first, others[0]))
        answers.append(ask(three, others[0], *options))
        jar.write_text(jar.read_text().replace(others[0], others[1]))
        answers.append(ask(three, others[1], *options))
        assert len({(answer.instance, answer.address) for answer in answers}) == 1


def _controller(node: Node) -> str:
    """The id of its container."""
    [found] = node.docker(
        "ps", "-q", "--filter", "label=com.docker.swarm.service.name=stickyproxy_controller"
    ).split()
    return found


def _kill_controller(node: Node) -> None:
    """And wait for the next one."""
    killed = _controller(node)
    node.docker("kill", killed)
    eventually(
        "a new controller runs",
        lambda: (
            settled(node, "stickyproxy") and killed not in node.running("stickyproxy_controller")
        ),
    )


def _operator(node: Node, *words: str) -> str:
    """What a command says that the controller is told by."""
    options = ("--config", "/etc/stickyproxy/controller.toml")
    return node.docker("exec", _controller(node), "stickyproxy", *words, *options)


def test_a_drained_slot_keeps_its_sessions_and_gets_no_new_ones(three: Swarm) -> None:
    """On no node, and also when the controller has been replaced meanwhile."""
    node = three.manager
    [drained] = [name for name, task in node.running("demo").items() if task["Slot"] == 3]
    with Load(three, addresses(*three.nodes)) as load:
        _operator(node, "drain", "demo/3")
        load.watch(rounds=2)
        targets = addresses(*three.nodes)
        new = {ask(three, target).instance for target in targets for _ in range(2 * REPLICAS)}
        _kill_controller(node)
        load.watch(rounds=2)
        new |= {ask(three, target).instance for target in targets for _ in range(2 * REPLICAS)}
    told.append(f"demo/3 drained: {load.report}")
    assert load.report.failures == []
    assert load.report.moves == []
    assert load.report.instances[drained] > 0
    assert drained not in new
    said = _operator(node, "drain", "demo/3", "--wait", "--idle=3s", "--timeout=2m")
    assert said.rstrip().endswith("drain, 1 endpoint, empty")
    _operator(node, "undrain", "demo/3")
    _all_in_rotation(three, three.nodes, REPLICAS)


def test_a_node_is_drained_by_its_label(three: Swarm) -> None:
    node, worker = three.manager, three.nodes[2]
    staying = REPLICAS - len(instances_on(three, worker))
    with Load(three, addresses(*three.nodes)) as load:
        label = "com.docker.lb.admin_state"
        node.docker("node", "update", "--label-add", f"{label}=drain", worker.name)
        _all_in_rotation(three, three.nodes, staying)
        load.watch()
        node.docker("node", "update", "--label-rm", label, worker.name)
        _all_in_rotation(three, three.nodes, REPLICAS)
        load.watch()
    told.append(f"{worker.name} drained by label: {load.report}")
    assert load.report.failures == []
    assert load.report.moves == []


def test_a_killed_controller_is_not_noticed(three: Swarm) -> None:
    node = three.manager
    controller = _controller(node)
    with Load(three, addresses(*three.nodes)) as load:
        node.docker("kill", controller)
        load.watch()  # while there is none
        eventually(
            "a new controller runs",
            lambda: (
                settled(node, "stickyproxy")
                and controller not in node.running("stickyproxy_controller")
            ),
        )
        load.watch(rounds=3)
    told.append(f"controller killed: {load.report}")
    assert load.report.failures == []
    assert load.report.moves == []
    # And it is a good one: what changes now arrives.
    for replicas in (REPLICAS + 1, REPLICAS):
        node.docker("service", "scale", "--detach", f"demo={replicas}")
        _all_in_rotation(three, three.nodes, replicas)


def test_a_stopped_engine_fails_no_request(three: Swarm) -> None:
    """The only manager's engine goes, and its containers with it: the controller, a proxy and a
    part of the replicas. The other nodes are on their own for a while."""
    stopped, *others = three.nodes
    instances = Instances(three)
    lost = instances_on(three, stopped)
    victim = next(iter(instances_on(three, others[0])))
    with Load(three, addresses(*others)) as load:
        stopped.stop_engine()
        begun = time.monotonic()
        others[0].docker("kill", victim)
        eventually(
            "the outage is over", lambda: time.monotonic() - begun > OUTAGE, within=2 * OUTAGE
        )
        stopped.start_engine()
        # Until the other engines have found their manager again, it knows of no task what has
        # become of it, and takes those that were for those that are.
        eventually("the nodes are back", three.all_ready, within=180)
        eventually(
            "the replicas are complete again",
            lambda: service_settled(three.manager, "demo", REPLICAS),
            within=120,
        )
        load.watch(rounds=2)
    told.append(moves_table(f"engine of {stopped.name} stopped for 20 s", load.report, instances))
    assert load.report.failures == []
    assert {move.came_from for move in load.report.moves} <= lost | {victim}
    _all_in_rotation(three, others, REPLICAS)


def test_a_drained_node_gives_its_sessions_away_once(three: Swarm) -> None:
    """Each to the task that takes the place of its own; the others do not move."""
    first, drained, last = three.nodes
    eventually("the stack has settled", lambda: settled(three.manager, "stickyproxy"), within=120)
    _all_in_rotation(three, three.nodes, REPLICAS)
    instances = Instances(three)
    leaving = instances_on(three, drained)
    assert leaving

    def is_done() -> bool:
        gone = not instances_on(three, drained)
        return gone and service_settled(three.manager, "demo", REPLICAS)

    with Load(three, addresses(first, last)) as load:
        three.manager.docker("node", "update", "--availability", "drain", drained.name)
        eventually("the tasks have gone elsewhere", is_done, within=120)
        load.watch(rounds=3)
    three.manager.docker("node", "update", "--availability", "active", drained.name)
    told.append(moves_table(f"{drained.name} drained", load.report, instances))
    began_on = load.report.first_instances
    assert load.report.failures == []
    assert set(load.report.repinned.values()) == {1}
    assert len(load.report.repinned) == sum(began_on.get(each, 0) for each in leaving)
    assert sorted(load.report.instances.values()) == sorted(began_on.values())


def test_a_dead_node_takes_only_its_own_sessions(three: Swarm) -> None:
    *living, dead = three.nodes
    eventually("the stack has settled", lambda: settled(three.manager, "stickyproxy"), within=120)
    _all_in_rotation(three, three.nodes, REPLICAS)
    instances = Instances(three)
    lost = instances_on(three, dead)
    assert lost
    with Load(three, addresses(*living)) as load:
        dead.kill()
        # The manager waits for a while before it believes that a node is gone.
        eventually(
            "the replicas are complete again",
            lambda: len(three.manager.running("demo").keys() - lost) == REPLICAS,
            within=120,
        )
        load.watch(rounds=2)
    told.append(moves_table(f"{dead.name} died", load.report, instances))
    assert load.report.failures == []
    assert {move.came_from for move in load.report.moves} == lost
    assert set(load.report.repinned.values()) == {1}
