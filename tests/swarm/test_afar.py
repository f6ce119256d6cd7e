"""Proxies and a controller that are no containers of the Swarm: plain processes on a machine
beside it. They live while the engine that they ask does not.

The services publish their port on the node. Two proxies see the same of them: one asks the engine
over TLS, for the services of its cluster; the other follows a controller, which asks by the
engine's socket.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.swarm import images
from tests.swarm.engine import TLS_PORT, Swarm, eventually
from tests.swarm.load import Load
from tests.swarm.plain import Plain, swarm_table
from tests.swarm.stage import ask, create_demo, in_rotation, published, ready, told

REPLICAS = 3
TOKEN = "a token of the tests"
PUBLISHED = "--publish=mode=host,target=8080"


@dataclass
class Afar:
    """The Swarm and who watches it."""

    swarm: Swarm
    direct: Plain
    """A proxy that asks the engine over TLS; it is for the cluster ``edge``."""
    controller: Plain
    follower: Plain
    addresses: list[str]
    """Of the two proxies, in this order."""


@pytest.fixture(scope="module")
def afar(archive: Path) -> Iterator[Afar]:
    """One node with the demo service, and the three processes."""
    with ExitStack() as stack:
        swarm = stack.enter_context(Swarm(tls=True))
        node = swarm.manager
        images.load(node, archive)
        first, second = addresses = [swarm.add_client_address(number) for number in (0, 1)]

        create_demo(
            node,
            *("hosts=demo.local", "sticky_session_cookie=session", "port=8080"),
            replicas=REPLICAS,
            network="bridge",
            options=[PUBLISHED],
        )
        engine = swarm_table(f"tcp://{node.address}:{TLS_PORT}", node.directory)
        direct = _proxy(swarm, "direct", first, f'{engine}service_cluster = "edge"\n')
        control = Plain(
            swarm,
            "controller",
            "controller",
            f'[controller]\naddress = "127.0.0.1:8082"\ntoken = "{TOKEN}"\n'
            + swarm_table(f"unix://{node.socket}"),
            ready="controller on",
        )
        follow = (
            f'[providers.controller]\nurl = "https://127.0.0.1:8082"\ntoken = "{TOKEN}"\n'
            f'cache_file = "{swarm.directory}/snapshot.json"\n'
        )
        follower = _proxy(swarm, "follower", second, follow)
        for process in (direct, control, follower):
            stack.enter_context(process)
        eventually("the service listens", lambda: ready(swarm, "demo", REPLICAS))
        yield Afar(swarm, direct, control, follower, addresses)


def _proxy(swarm: Swarm, name: str, address: str, provider: str) -> Plain:
    listener = f'[[listeners]]\naddress = "{address}:80"\n'
    return Plain(swarm, name, "serve", listener + provider, ready="serves on")


def _all_in_rotation(afar: Afar, replicas: int) -> None:
    eventually(
        f"both proxies deal to {replicas}",
        lambda: in_rotation(afar.swarm, afar.addresses, replicas),
    )


def test_services_of_other_clusters_are_left_alone(afar: Afar) -> None:
    for cluster in ("edge", "inner"):
        create_demo(
            afar.swarm.manager,
            *(f"hosts={cluster}.local", "port=8080", f"service_cluster={cluster}"),
            name=cluster,
            replicas=1,
            network="bridge",
            options=[PUBLISHED],
        )
    for cluster in ("edge", "inner"):
        eventually(f"{cluster} listens", lambda c=cluster: ready(afar.swarm, c, 1))  # type: ignore[misc]
    of_edge, of_all = afar.addresses
    # The one that is for nobody in particular has both, and what has no cluster is everybody's.
    published(afar.swarm, of_all, host="edge.local")
    published(afar.swarm, of_all, host="inner.local")
    published(afar.swarm, of_edge, host="edge.local")
    published(afar.swarm, of_edge, of_all, host="demo.local")
    # Created after, and published: whoever asks an engine has seen the other one by now.
    assert ask(afar.swarm, of_edge, host="inner.local").status == 404


def test_the_engine_dies_and_its_watchers_do_not(afar: Afar) -> None:
    """Killed, the engine leaves its containers running until it is started again."""
    node = afar.swarm.manager
    _all_in_rotation(afar, REPLICAS)
    before = node.running("demo")
    with Load(afar.swarm, afar.addresses, sessions=100) as load:
        node.stop_engine(signal.SIGKILL)
        for process in (afar.direct, afar.controller):
            eventually(f"{process} misses it", lambda p=process: "routes are kept" in p.log)  # type: ignore[misc]
        load.watch(rounds=3)
    told.append(f"engine killed, containers not: {load.report}")
    assert load.report.failures == []
    assert load.report.moves == []
    assert load.report.instances.keys() == before.keys()

    node.start_engine()
    for process in (afar.direct, afar.controller):
        eventually(f"{process} has it back", lambda p=process: "the engine answers again" in p.log)  # type: ignore[misc]
    eventually("the replicas are back", lambda: ready(afar.swarm, "demo", REPLICAS))
    node.docker("service", "scale", "--detach", f"demo={REPLICAS + 1}")
    eventually("one more listens", lambda: ready(afar.swarm, "demo", REPLICAS + 1))
    _all_in_rotation(afar, REPLICAS + 1)
    assert not before.keys() & node.running("demo").keys()
    for process in (afar.direct, afar.controller, afar.follower):
        assert process.lives, process


def test_a_follower_goes_on_without_its_controller(afar: Afar) -> None:
    """Also with a service whose labels have gone bad meanwhile, and after its own restart."""
    node = afar.swarm.manager
    eventually("the replicas listen", lambda: ready(afar.swarm, "demo", REPLICAS + 1))
    _all_in_rotation(afar, REPLICAS + 1)
    node.docker("service", "update", "--label-add=com.docker.lb.port=http", "--detach", "demo")
    for process in (afar.direct, afar.follower):
        eventually(
            f"{process} says so",
            lambda p=process: 'service demo: com.docker.lb.port: "http" is not' in p.log,  # type: ignore[misc]
        )
    follower = afar.addresses[1]
    with Load(afar.swarm, [follower], sessions=50) as load:
        afar.controller.kill()
        eventually("it is missed", lambda: "routes are kept" in afar.follower.log)
        load.watch(rounds=2)
    assert load.report.failures == []
    assert load.report.moves == []

    afar.follower.kill()
    afar.follower.start()
    eventually(
        "it deals to all of them again",
        lambda: in_rotation(afar.swarm, [follower], REPLICAS + 1),
    )
    # Mended while nobody looked, and found so by the next controller.
    node.docker("service", "update", "--label-add=com.docker.lb.port=8080", "--detach", "demo")
    afar.controller.start()
    node.docker("service", "scale", "--detach", f"demo={REPLICAS}")
    eventually("one less listens", lambda: ready(afar.swarm, "demo", REPLICAS))
    _all_in_rotation(afar, REPLICAS)
