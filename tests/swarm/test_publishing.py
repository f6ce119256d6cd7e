"""What is published and what is not: wrong labels, and several services on one host."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

from stickyproxy.runtime.supervisor import usable_cores
from tests.swarm.engine import Swarm, eventually
from tests.swarm.images import CHECKOUT
from tests.swarm.load import Load
from tests.swarm.stage import (
    ask,
    create_demo,
    deploy,
    in_rotation,
    published,
    ready,
    told,
)


def _proxies(swarm: Swarm) -> list[str]:
    """The containers of the proxy: two, for a moment, while one is being replaced."""
    return swarm.manager.docker(
        "ps", "-q", "--filter", "label=com.docker.swarm.service.name=stickyproxy_proxy"
    ).split()


def _proxy(swarm: Swarm) -> str:
    """The container of the proxy."""
    [found] = _proxies(swarm)
    return found


def _services(swarm: Swarm, *options: str) -> str:
    """What ``stickyproxy services`` prints in the proxy's container; 3: there are errors in it."""
    command = ('stickyproxy services "$@" || test $? = 3', "sh", *options)
    return swarm.manager.docker("exec", _proxy(swarm), "sh", "-c", *command)


def _row(swarm: Swarm, service: str) -> dict[str, Any]:
    """What it says of one service. AssertionError if that is nothing."""
    rows: list[dict[str, Any]] = json.loads(_services(swarm, "--json"))
    found = [row for row in rows if row["service"] == service]
    assert len(found) == 1, f"nothing is known of {service}"
    return found[0]


def test_a_bad_label_stops_only_its_own_service(deployed: Swarm) -> None:
    node = deployed.manager
    create_demo(node, "hosts=good.local", "port=8080", name="good", replicas=1)
    create_demo(node, "hosts=bad.local", "port=http", name="bad", replicas=1)
    published(deployed, host="good.local")
    eventually("both listen", lambda: ready(deployed, "good", 1) and ready(deployed, "bad", 1))
    assert eventually("the bad one is seen", lambda: _row(deployed, "bad")["problems"])

    assert ask(deployed, node.address, host="bad.local").status == 404
    shown = _services(deployed)
    print(shown)
    assert "com.docker.lb.port" in shown
    assert _row(deployed, "bad")["state"] == "not published"
    assert _row(deployed, "good")["state"] == "published"
    # Not "docker service logs": where tasks have gone it may wait for their part for minutes.
    logged = node.shell(f"docker logs {_proxy(deployed)} 2>&1 | grep com.docker.lb.port")
    print(logged)
    assert re.search('service bad: com.docker.lb.port: .*"http" is not a port', logged)

    began = time.monotonic()
    node.docker("service", "update", "--label-add=com.docker.lb.port=8080", "--detach", "bad")
    published(deployed, host="bad.local")
    told.append(f"label mended: published {time.monotonic() - began:.2f} s later")
    assert ask(deployed, node.address, host="good.local").status == 200


def test_a_label_that_goes_bad_does_not_unpublish(deployed: Swarm) -> None:
    node = deployed.manager
    create_demo(node, "hosts=spoilt.local", "port=8080", name="spoilt", replicas=2)
    eventually("it listens", lambda: ready(deployed, "spoilt", 2))
    eventually(
        "it is in rotation", lambda: in_rotation(deployed, [node.address], 2, host="spoilt.local")
    )
    node.docker("service", "update", "--label-add=com.docker.lb.port=http", "--detach", "spoilt")
    eventually("the label is seen", lambda: _row(deployed, "spoilt")["problems"])
    assert _row(deployed, "spoilt")["state"] == "published by its last good labels"
    # And it is kept in step.
    node.docker("service", "scale", "--detach", "spoilt=3")
    eventually("three listen", lambda: ready(deployed, "spoilt", 3))
    eventually(
        "three are in rotation",
        lambda: in_rotation(deployed, [node.address], 3, host="spoilt.local"),
    )


def test_an_attachable_network_is_joined_live(deployed: Swarm) -> None:
    """Without a connector, as any other network takes one."""
    node = deployed.manager
    before = _proxy(deployed)
    node.docker("network", "create", "-d", "overlay", "--attachable", "late")
    create_demo(node, "hosts=late.local", "port=8080", name="late", replicas=2, network="late")
    eventually("it listens", lambda: ready(deployed, "late", 2))
    eventually(
        "it is in rotation", lambda: in_rotation(deployed, [node.address], 2, host="late.local")
    )
    assert _proxy(deployed) == before
    joined = node.api(f"/containers/{before}/json")["NetworkSettings"]["Networks"]
    assert "late" in joined


def test_a_network_is_joined_by_the_service_if_asked_for(swarm: Swarm) -> None:
    """The fallback: the proxies' own service is updated, which replaces the proxy, and there is
    no connector."""
    for name in ("stack.yml", "config.toml"):
        shutil.copy(CHECKOUT / "deploy" / name, swarm.directory)
    with (swarm.directory / "config.toml").open("a") as config:
        config.write('join_by = "service"\n')  # of the last table, which is the provider's
    deploy(swarm, swarm.directory / "stack.yml")
    node = swarm.manager
    before = _proxy(swarm)
    node.docker("network", "create", "-d", "overlay", "plain")
    create_demo(node, "hosts=plain.local", "port=8080", name="shop", replicas=2, network="plain")
    published(swarm, host="plain.local", within=120)
    # It starts before the one that it replaces ends.
    eventually(
        "the proxy is another one", lambda: len(now := _proxies(swarm)) == 1 and now != [before]
    )
    template = node.api("/services/stickyproxy_proxy")["Spec"]["TaskTemplate"]
    network = node.api("/networks/plain")["Id"]
    assert network in {each["Target"] for each in template["Networks"]}
    names = {each["Spec"]["Name"] for each in node.api("/services")}
    assert names == {"stickyproxy_proxy", "stickyproxy_keeper", "shop"}


def test_the_virtual_address_as_the_only_endpoint(deployed: Swarm) -> None:
    node = deployed.manager
    labels = ("hosts=vip.local", "port=8080", "backend_mode=vip")
    create_demo(node, *labels, name="vip", replicas=2)
    eventually("it listens", lambda: ready(deployed, "vip", 2))
    eventually("it is published", lambda: _row(deployed, "vip")["endpoints"])
    network = node.api("/networks/demo")["Id"]
    service = node.api("/services/vip")
    [address] = (
        each["Addr"].partition("/")[0]
        for each in service["Endpoint"]["VirtualIPs"]
        if each["NetworkID"] == network
    )
    [endpoint] = _row(deployed, "vip")["endpoints"]
    assert endpoint["address"] == f"{address}:8080"
    if Path("/proc/net/ip_vs").exists():
        published(deployed, host="vip.local")
        reply = ask(deployed, node.address, host="vip.local")
        assert reply.address == f"{address}:8080"
        assert reply.instance in node.running("vip")
    else:
        told.append("no traffic through virtual addresses: this kernel has no IPVS")


def test_a_canary_gets_its_share_of_sessions_and_keeps_them(deployed: Swarm) -> None:
    node = deployed.manager
    labels = ("hosts=demo.local", "sticky_session_cookie=session", "port=8080")
    create_demo(node, *labels, name="stable", replicas=4, options=["--env=VERSION=stable"])
    create_demo(node, *labels, name="canary", replicas=1, options=["--env=VERSION=canary"])
    eventually("the stable ones listen", lambda: ready(deployed, "stable", 4))
    eventually("the canary listens", lambda: ready(deployed, "canary", 1))
    eventually("all five are in rotation", lambda: in_rotation(deployed, [node.address], 5))

    with Load(deployed, [node.address], sessions=200) as load:
        load.watch(rounds=10)
    told.append(f"canary: {load.report}")
    assert load.report.failures == []
    assert load.report.moves == []
    cohorts = Counter(version for [version] in load.report.versions.values())
    told.append(f"sessions by version: {dict(cohorts)}")
    # Each of the proxy's processes deals exactly, beginning anywhere: of the n sessions that it
    # got, the canary has n/5, rounded down or up.
    assert abs(cohorts["canary"] - 40) < usable_cores()
    assert cohorts.total() == 200
