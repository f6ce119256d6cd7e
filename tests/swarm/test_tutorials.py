"""The tutorials, typed word for word: only the image's name is the locally built one's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from tests.swarm.engine import Swarm, eventually, run
from tests.swarm.images import DEMO_IMAGE
from tests.swarm.stage import Reply, deploy, in_rotation, published, ready, told

COOKIE_TUTORIAL = f"""
docker network create -d overlay demo
docker service create \\
    --name demo \\
    --network demo \\
    --detach=false \\
    --replicas=5 \\
    --label com.docker.lb.hosts=demo.local \\
    --label com.docker.lb.sticky_session_cookie=session \\
    --label com.docker.lb.port=8080 \\
    --env METADATA="demo-sticky" \\
    {DEMO_IMAGE}
"""
COOKIE_CURL = 'curl -vs -c cookie.txt -b cookie.txt -H "Host: demo.local" http://127.0.0.1/ping'

IP_HASH_TUTORIAL = f"""
docker network create -d overlay demo
docker service create \\
    --name demo \\
    --network demo \\
    --detach=false \\
    --replicas=5 \\
    --label com.docker.lb.hosts=demo.local \\
    --label com.docker.lb.port=8080 \\
    --label com.docker.lb.ip_hash=true \\
    --env METADATA="demo-sticky" \\
    {DEMO_IMAGE}
"""
IP_HASH_CURL = 'curl -vs -H "Host: demo.local" http://127.0.0.1/ping'
CLIENTS = 150
SCALE = "docker service scale demo=10"


def typed(swarm: Swarm, curl: str) -> Reply:
    """Type a curl command with -v on the manager, and read the response out of what it shows."""
    shown = swarm.manager.shell(curl).replace("\r\n", "\n")
    head = [line[2:] for line in shown.splitlines() if line.startswith("< ")]
    body = [line for line in shown.splitlines() if line.startswith('{"')]
    return Reply.parse("\n".join([*head, "", *body]))


def _all_listen(swarm: Swarm, replicas: int) -> None:
    """As somebody would wait who types no faster than the machine goes."""
    eventually(f"{replicas} tasks listen", lambda: ready(swarm, "demo", replicas))


def test_the_cookie_tutorial(swarm: Swarm) -> None:
    deploy(swarm)
    swarm.manager.shell(COOKIE_TUTORIAL)
    assert typed(swarm, COOKIE_CURL).status in (200, 503)  # somebody is there, come what may
    _all_listen(swarm, 5)
    published(swarm)
    swarm.manager.shell("rm -f cookie.txt")

    first = typed(swarm, COOKIE_CURL)
    assert first.status == 200
    assert re.fullmatch("[0-9a-f]{32}", first["x-request-id"])
    assert re.fullmatch("[0-9a-f]{12}", first["x-proxy-id"])
    assert re.fullmatch(r"stickyproxy/\S+ \([0-9a-f]{8}\) linux/\w+", first["x-server-info"])
    assert re.fullmatch(r"10\.\d+\.\d+\.\d+:8080", first["x-upstream-addr"])
    assert re.fullmatch(r"\d+\.\d{3}", first["x-upstream-response-time"])
    assert first["set-cookie"].startswith("session=")
    assert f'"request_id":"{first["x-request-id"]}"' in first.body
    assert '"metadata":"demo-sticky"' in first.body

    def answers(times: int) -> set[tuple[str, str]]:
        replies = [typed(swarm, COOKIE_CURL) for _ in range(times)]
        return {(reply["x-upstream-addr"], reply.instance) for reply in replies}

    assert answers(20) == {(first["x-upstream-addr"], first.instance)}

    swarm.manager.shell(SCALE)
    _all_listen(swarm, 10)
    eventually(
        "new sessions reach all ten", lambda: in_rotation(swarm, [swarm.manager.address], 10)
    )
    assert answers(20) == {(first["x-upstream-addr"], first.instance)}


def test_the_ip_hash_tutorial(swarm: Swarm) -> None:
    deploy(swarm)
    swarm.manager.shell(IP_HASH_TUTORIAL)
    _all_listen(swarm, 5)
    published(swarm)

    # From the machine itself every client is 127.0.0.1 behind the engine's own relay; from the
    # network each is seen with its address. There are so many that no endpoint is without one.
    clients = [swarm.add_client_address(number) for number in range(CLIENTS)]

    def placed() -> dict[str, str]:
        return dict(zip(clients, _asked_from(swarm, clients), strict=True))

    def settled_on(endpoints: int) -> dict[str, str]:
        """Where everybody is, once all the proxy's processes know as many endpoints and agree."""
        placement = placed()
        assert len(set(placement.values())) == endpoints
        assert placed() == placement
        return placement

    before = eventually("all five are in rotation", lambda: settled_on(5))
    share = Counter(before.values())
    told.append(f"{CLIENTS} clients over 5 endpoints: {sorted(share.values())}")
    first = typed(swarm, IP_HASH_CURL)
    assert first.status == 200
    assert {typed(swarm, IP_HASH_CURL).address for _ in range(5)} == {first.address}
    assert placed() == before

    swarm.manager.shell(SCALE)
    _all_listen(swarm, 10)
    after = eventually("all ten are in rotation", lambda: settled_on(10))
    moved = [client for client in clients if before[client] != after[client]]
    told.append(f"5 -> 10: {len(moved)} of {CLIENTS} clients moved")
    # Half of them are due to move, with a standard deviation of 6.
    assert abs(len(moved) - CLIENTS / 2) <= 36
    assert all(after[client] not in share for client in moved), "some moved between old endpoints"


def _asked_from(swarm: Swarm, clients: Sequence[str]) -> list[str]:
    """The endpoint that each of these addresses is answered by."""
    shown = ("-o", "/dev/null", "-w", "%{http_code} %header{x-upstream-addr}\n", "--max-time", "20")
    url = f"http://{swarm.manager.address}/ping"
    requests = (
        ("--interface", client, "-sS", *shown, "-H", "Host: demo.local", url) for client in clients
    )
    command = [part for request in requests for part in ("--next", *request)][1:]
    answers = [line.split() for line in run(swarm.as_client("curl", *command)).splitlines()]
    assert {answer[0] for answer in answers} == {"200"}
    return [answer[-1] for answer in answers]
