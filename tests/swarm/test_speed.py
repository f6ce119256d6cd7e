"""How soon a proxy is in step with the Swarm."""

from __future__ import annotations

from tests.swarm.engine import Swarm, eventually
from tests.swarm.stage import (
    DEMO_PORT,
    create_demo,
    in_rotation,
    published,
    ready,
    service_settled,
    told,
)
from tests.swarm.timings import Watch


def test_how_soon_the_proxy_is_in_step(deployed: Swarm) -> None:
    """Told, not judged: it depends on the machine."""
    node = deployed.manager
    proxy = "stickyproxy_proxy"
    silent = node.running(proxy)
    node.docker("service", "update", "--env-add=STICKYPROXY_DEBUG=1", "--detach", proxy)
    create_demo(
        node,
        *("hosts=timed.local", "port=8080"),
        name="timed",
        replicas=2,
        options=["--restart-delay=0s"],
    )
    eventually(
        "the proxy was replaced",
        lambda: service_settled(node, proxy, 1) and not silent.keys() & node.running(proxy).keys(),
    )
    published(deployed, host="timed.local")
    eventually("two listen", lambda: ready(deployed, "timed", 2))
    eventually(
        "two are in rotation", lambda: in_rotation(deployed, [node.address], 2, host="timed.local")
    )
    # It serves before it is healthy.
    eventually("the proxy has settled", lambda: service_settled(node, proxy, 1))
    [container] = node.running(proxy)
    watch = Watch(node, "timed", container, DEMO_PORT)

    def scale(replicas: int) -> None:
        node.docker("service", "scale", "--detach", f"timed={replicas}")

    watch.change(lambda: scale(10), came=8, left=0)
    watch.change(lambda: scale(2), came=0, left=8)
    for _ in range(2):
        victim = next(iter(node.running("timed")))
        watch.change(lambda victim=victim: node.docker("kill", victim), came=1, left=1)  # type: ignore[misc]
    told.append(str(watch))
