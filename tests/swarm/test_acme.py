"""Certificates by ACME on a Swarm: ordered by the controller, kept in the Swarm, shown by proxies
on two nodes. The authority is pebble, where the clients are; for it each host is on one of the
nodes, so that both proxies have to answer."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acme.authorities import Identity, need
from tests.swarm import images
from tests.swarm.engine import CLIENT_ADDRESS, Swarm, eventually, run
from tests.swarm.stage import Reply, create_demo, deploy, service_settled, told

DIRECTORY, MANAGEMENT = 14000, 15000
SOON = 60.0
"""Seconds: far more than it takes (which is told), for a machine that is busy."""

ACME = f"""
[acme]
directory = "https://{CLIENT_ADDRESS}:{DIRECTORY}/dir"
terms_agreed = true
storage = "swarm"
ca_file = "/etc/stickyproxy/ca.pem"
"""


class Pebble:
    """Pebble where the clients are."""

    def __init__(self, swarm: Swarm) -> None:
        need("pebble")
        self._swarm = swarm
        self._folder = swarm.directory / "pebble"
        self._folder.mkdir()
        self.identity = Identity(self._folder, CLIENT_ADDRESS)
        settings = {
            "listenAddress": f"{CLIENT_ADDRESS}:{DIRECTORY}",
            "managementListenAddress": f"{CLIENT_ADDRESS}:{MANAGEMENT}",
            "certificate": str(self.identity.certificate),
            "privateKey": str(self.identity.key),
            "httpPort": 80,
            "tlsPort": 443,
        }
        config = self._folder / "pebble.json"
        config.write_text(json.dumps({"pebble": settings}))
        nothing = ("-http01=", "-https01=", "-tlsalpn01=", "-defaultIPv4=", "-defaultIPv6=")
        names = ("-dns01=127.0.0.1:8053", "-management=127.0.0.1:8055")
        self._started = [
            self._start("names.log", "pebble-challtestsrv", *names, *nothing),
            self._start("pebble.log", "pebble", "-config", config, "-dnsserver", "127.0.0.1:8053"),
        ]
        eventually("it listens", lambda: self._get(DIRECTORY, "dir"))
        self.root = self._folder / "root.pem"
        self.root.write_text(self._get(MANAGEMENT, "roots/0"))

    def _start(self, log: str, *command: str | Path) -> subprocess.Popen[bytes]:
        with (self._folder / log).open("wb") as file:
            environ = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
            environ["PATH"] = "/usr/sbin:/usr/bin:/bin"
            inside = self._swarm.as_client(*command)
            return subprocess.Popen(inside, stdout=file, stderr=file, env=environ)

    def _get(self, port: int, path: str) -> str:
        url = f"https://{CLIENT_ADDRESS}:{port}/{path}"
        trusting = ("--cacert", self.identity.certificate)
        return run(self._swarm.as_client("curl", "-sSf", "--max-time", "5", *trusting, url))

    def locate(self, host: str, address: str) -> None:
        """Where a name leads to, for the authority."""
        body = json.dumps({"host": f"{host}.", "addresses": [address]})
        url = "http://127.0.0.1:8055/add-a"
        run(self._swarm.as_client("curl", "-sSf", "--max-time", "5", "-d", body, url))

    @property
    def log(self) -> str:
        """What it has said so far."""
        return (self._folder / "pebble.log").read_text()

    @property
    def orders(self) -> int:
        """How many certificates it was asked for."""
        return self.log.count("POST /order-plz")

    def stop(self) -> None:
        """End it."""
        for process in self._started:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Planes:
    """Two nodes with the split stack, and the authority."""

    swarm: Swarm
    authority: Pebble

    def https(self, host: str, node: int) -> Reply:
        """One request over TLS to a node, by a client that trusts the authority alone."""
        address = self.swarm.nodes[node].address
        return Reply.parse(
            run(
                self.swarm.as_client(
                    *("curl", "-sS", "-i", "--http1.1", "--max-time", "10"),
                    *("--cacert", self.authority.root),
                    *("--resolve", f"{host}:443:{address}", f"https://{host}/ping"),
                )
            )
        )

    def secured(self, *hosts: str) -> bool:
        """Whether both nodes serve these over TLS."""
        replies = [self.https(host, node).status for host in hosts for node in (0, 1)]
        assert set(replies) == {200}, replies
        return True

    def stored(self) -> dict[str, bytes]:
        """The configs that are ours, by name."""
        found = self.swarm.manager.api("/configs", label="stickyproxy.acme")
        return {
            each["Spec"]["Name"]: base64.b64decode(each["Spec"]["Data"])
            for each in found
            if "stickyproxy.acme" in each["Spec"]["Labels"]
        }

    def publish(self, name: str) -> tuple[str, str]:
        """A service with a host on each node; returns the hosts."""
        hosts = f"{name}-one.example.com", f"{name}-two.example.com"
        for host, node in zip(hosts, self.swarm.nodes, strict=True):
            self.authority.locate(host, node.address)
        labels = (f"hosts={','.join(hosts)}", "port=8080", "ssl_acme=true")
        create_demo(self.swarm.manager, *labels, name=name, replicas=2, network="stickyproxy_edge")
        return hosts


@pytest.fixture(scope="module")
def planes(archive: Path) -> Iterator[Planes]:
    """The split stack as the guide extends it."""
    need("pebble")
    with Swarm(nodes=2, managers=2) as swarm:
        for node in swarm.nodes:
            images.load(node, archive)
        authority = Pebble(swarm)
        try:
            folder = swarm.directory / "stack"
            folder.mkdir()
            original = images.CHECKOUT / "deploy"
            (folder / "proxy.toml").write_text((original / "proxy.toml").read_text())
            (folder / "controller.toml").write_text(
                (original / "controller.toml").read_text() + ACME
            )
            (folder / "ca.pem").write_bytes(authority.identity.certificate.read_bytes())
            stack = (original / "stack-split.yml").read_text()
            for before, after in (
                ("    networks: [control]\n", "    networks: [control, outside]\n"),
                (
                    "        target: /etc/stickyproxy/controller.toml\n",
                    "        target: /etc/stickyproxy/controller.toml\n"
                    "      - source: ca\n        target: /etc/stickyproxy/ca.pem\n",
                ),
                ("\nnetworks:\n", "\nnetworks:\n  outside:\n    driver: overlay\n"),
                ("\nconfigs:\n", "\nconfigs:\n  ca:\n    file: ./ca.pem\n"),
            ):
                assert stack.count(before) == 1, before
                stack = stack.replace(before, after)
            (folder / "stack.yml").write_text(stack)
            token = swarm.directory / "token"
            token.write_text(secrets.token_hex(32))
            swarm.manager.docker("secret", "create", "stickyproxy_token", token)
            deploy(swarm, folder / "stack.yml")
            yield Planes(swarm, authority)
        finally:
            authority.stop()


def test_a_service_has_https_on_both_nodes(planes: Planes) -> None:
    began = time.monotonic()
    hosts = planes.publish("shop")
    eventually("https on both nodes", lambda: planes.secured(*hosts), within=SOON)
    told.append(f"ACME: https on two nodes {time.monotonic() - began:.1f} s after its creation")
    assert planes.authority.orders == 1
    stored = planes.stored()
    assert sorted(name.split("-")[3] for name in stored) == ["account", "names"], [*stored]
    assert not any(b"PRIVATE KEY" in data or b"example.com" in data for data in stored.values())


def test_a_controller_that_starts_elsewhere_orders_nothing_anew(planes: Planes) -> None:
    manager, name = planes.swarm.manager, "stickyproxy_controller"
    [before] = manager.running(name).values()
    nodes = planes.swarm.nodes_by_id()
    old = nodes[before["NodeID"]]
    [other] = [node for node in planes.swarm.nodes if node is not old]
    old.docker("rm", "--force", before["Status"]["ContainerStatus"]["ContainerID"])
    where = f"node.hostname=={other.name}"
    manager.docker("service", "update", "--detach", f"--constraint-add={where}", name)
    eventually(
        "it runs on the other node",
        lambda: (
            service_settled(manager, name, 1)
            and [nodes[each["NodeID"]] for each in manager.running(name).values()] == [other]
        ),
    )
    assert planes.secured("shop-one.example.com", "shop-two.example.com")
    orders = planes.authority.orders
    hosts = planes.publish("more")  # once this has a certificate, the new one has seen all
    eventually("https on both nodes", lambda: planes.secured(*hosts), within=SOON)
    assert planes.secured("shop-one.example.com", "shop-two.example.com")
    assert planes.authority.orders == orders + 1
    assert sorted(each.split("-")[3] for each in planes.stored()) == ["account", "names", "names"]
