"""The tutorials, typed word for word: only the image's name is the locally built one's."""

from __future__ import annotations

import re
from collections import Counter

from tests.swarm.engine import Swarm, eventually
from tests.swarm.images import DEMO_IMAGE
from tests.swarm.stage import Reply, ask, deploy, published, service_settled, told

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
SCALE = "docker service scale demo=10"


def typed(swarm: Swarm, curl: str) -> Reply:
    """Type a curl command with -v on the manager, and read the response out of what it shows."""
    shown = swarm.manager.shell(curl).replace("\r\n", "\n")
    head = [line[2:] for line in shown.splitlines() if line.startswith("< ")]
    body = [line for line in shown.splitlines() if line.startswith('{"')]
    return Reply.parse("\n".join([*head, "", *body]))


def _tasks_run(swarm: Swarm, replicas: int) -> None:
    eventually(
        f"{replicas} tasks run",
        lambda: service_settled(swarm.manager, "demo", replicas),
        within=60,
    )


def test_the_cookie_tutorial(swarm: Swarm) -> None:
    deploy(swarm)
    swarm.manager.shell(COOKIE_TUTORIAL)
    published(swarm)

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
    _tasks_run(swarm, 10)
    eventually(
        "new sessions reach all ten",
        lambda: len({ask(swarm, swarm.manager.address).address for _ in range(20)}) == 10,
    )
    assert answers(20) == {(first["x-upstream-addr"], first.instance)}


def test_the_ip_hash_tutorial(swarm: Swarm) -> None:
    deploy(swarm)
    swarm.manager.shell(IP_HASH_TUTORIAL)
    published(swarm)
    first = typed(swarm, IP_HASH_CURL)
    assert first.status == 200
    assert {typed(swarm, IP_HASH_CURL).address for _ in range(5)} == {first.address}

    # From the machine itself every client is 127.0.0.1 behind the engine's own relay; from the
    # network each is seen with its address.
    clients = [swarm.add_client_address(number) for number in range(100)]

    def placed() -> dict[str, str]:
        return {
            client: ask(swarm, swarm.manager.address, interface=client).address
            for client in clients
        }

    before = placed()
    assert placed() == before
    share = Counter(before.values())
    told.append(f"100 clients over 5 endpoints: {sorted(share.values())}")
    assert len(share) == 5

    swarm.manager.shell(SCALE)
    _tasks_run(swarm, 10)
    eventually("all ten are in rotation", lambda: len(set(placed().values())) == 10)
    after = placed()
    moved = [client for client in clients if before[client] != after[client]]
    told.append(f"5 -> 10: {len(moved)} of 100 clients moved")
    # 50 are due to move, with a standard deviation of 5.
    assert 25 <= len(moved) <= 75
    assert all(after[client] not in share for client in moved), "some moved between old endpoints"
