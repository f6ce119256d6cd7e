"""TLS that an application speaks itself: Interlock's own page, "Let your service handle TLS", typed
word for word. Only the image's name is the locally built one's."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.swarm import images
from tests.swarm.engine import Swarm, eventually, run
from tests.swarm.images import DEMO_IMAGE
from tests.swarm.stage import Reply, ask, deploy, ready, told

COMPOSE = f"""\
version: "3.2"

services:
  demo:
    image: {DEMO_IMAGE}
    command: --tls-cert=/run/secrets/cert.pem --tls-key=/run/secrets/key.pem
    deploy:
      replicas: 1
      labels:
        com.docker.lb.hosts: app.example.org
        com.docker.lb.network: demo-network
        com.docker.lb.port: 8080
        com.docker.lb.ssl_passthrough: "true"
    environment:
      METADATA: end-to-end-TLS
    networks:
      - demo-network
    secrets:
      - source: app.example.org.cert
        target: /run/secrets/cert.pem
      - source: app.example.org.key
        target: /run/secrets/key.pem

networks:
  demo-network:
    driver: overlay
secrets:
  app.example.org.cert:
    file: ./app.example.org.cert
  app.example.org.key:
    file: ./app.example.org.key
"""

TYPED = """
openssl req \\
  -new \\
  -newkey rsa:4096 \\
  -days 3650 \\
  -nodes \\
  -x509 \\
  -subj "/C=US/ST=CA/L=SF/O=Docker-demo/CN=app.example.org" \\
  -keyout app.example.org.key \\
  -out app.example.org.cert
docker stack deploy --compose-file docker-compose.yml demo
"""

HOST = "app.example.org"


@pytest.fixture(scope="module")
def passing(archive: Path) -> Iterator[Swarm]:
    """One node with the stack, and what was typed."""
    with Swarm() as swarm:
        node = swarm.manager
        images.load(node, archive)
        deploy(swarm)
        (node.directory / "docker-compose.yml").write_text(COMPOSE)
        began = time.monotonic()
        node.shell(TYPED)
        eventually("the application listens", lambda: ready(swarm, "demo_demo", 1))
        eventually("it is passed through", lambda: asked(swarm))
        told.append(f"passed through {time.monotonic() - began:.2f} s after it was typed")
        yield swarm


def asked(swarm: Swarm, *options: str, interface: str | None = None) -> dict[str, Any]:
    """What the application says over its own TLS. Raises CommandError unless the certificate is
    its own."""
    source = [] if interface is None else ["--interface", interface]
    shown = run(
        swarm.as_client(
            *("curl", "-sS", "-i", "--max-time", "20", *source, *options),
            *("--cacert", str(swarm.manager.directory / f"{HOST}.cert")),
            *("--resolve", f"{HOST}:443:{swarm.manager.address}", f"https://{HOST}/ping"),
        )
    )
    reply = Reply.parse(shown)
    assert reply.status == 200
    found: dict[str, Any] = json.loads(reply.body)
    return found


def test_the_application_answers_with_its_own_certificate(passing: Swarm) -> None:
    said = asked(passing)
    assert said["metadata"] == "end-to-end-TLS"
    assert "request_id" not in said, "no proxy can have added a field"


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_versions_are_the_applications(passing: Swarm, version: str) -> None:
    assert asked(passing, f"--tlsv{version}", "--tls-max", version)


def test_in_the_clear_clients_are_sent_there(passing: Swarm) -> None:
    reply = ask(passing, passing.manager.address, host=HOST)
    assert reply.status == 308
    assert reply["location"] == f"https://{HOST}/ping"


def answering(swarm: Swarm) -> set[str]:
    """Who answers a client that connects again and again."""
    return {asked(swarm)["instance"] for _ in range(10)}


def test_a_client_keeps_its_task_when_others_come(passing: Swarm) -> None:
    first = asked(passing)["instance"]
    passing.manager.docker("service", "scale", "--detach", "demo_demo=3")
    eventually("they listen", lambda: ready(passing, "demo_demo", 3))
    # Every process of the proxy finds out by itself, and that they listen a moment later.
    kept = eventually("it has one", lambda: found if len(found := answering(passing)) == 1 else ())
    told.append(f"passed through, scaled to three: {'stayed' if kept == {first} else 'moved'}")


def test_a_task_that_dies_is_left_out(passing: Swarm) -> None:
    """New connections go elsewhere from the first one on."""
    instance = asked(passing)["instance"]
    passing.manager.docker("kill", instance)
    assert instance not in answering(passing)
    eventually("it has another one", lambda: len(answering(passing)) == 1)
