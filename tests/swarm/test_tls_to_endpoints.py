"""Labels for TLS to endpoints, with tasks that speak nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.swarm import images
from tests.swarm.engine import Swarm, eventually
from tests.swarm.images import DEMO_IMAGE
from tests.swarm.stage import ask, deploy, ready

HOST = "app.example.org"

COMPOSE = f"""\
version: "3.2"

services:
  demo:
    image: {DEMO_IMAGE}
    command: --tls-cert=/run/secrets/cert.pem --tls-key=/run/secrets/key.pem
    deploy:
      replicas: 2
      labels:
        com.docker.lb.hosts: {HOST}
        com.docker.lb.port: 8080
        com.docker.lb.ssl_backend: "true"
    environment:
      METADATA: reached over TLS
    secrets:
      - source: cert
        target: /run/secrets/cert.pem
      - source: key
        target: /run/secrets/key.pem

secrets:
  cert:
    file: ./app.cert
  key:
    file: ./app.key
"""

CERTIFICATE = f"""
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 30 -nodes -x509 \\
  -subj /CN={HOST} -addext subjectAltName=DNS:{HOST} -keyout app.key -out app.cert
"""


@pytest.fixture(scope="module")
def backed(archive: Path) -> Iterator[Swarm]:
    """One node with the stack, and the application."""
    with Swarm() as swarm:
        node = swarm.manager
        images.load(node, archive)
        deploy(swarm)
        node.shell(CERTIFICATE)
        (node.directory / "app.yml").write_text(COMPOSE)
        node.docker("stack", "deploy", "--compose-file", str(node.directory / "app.yml"), "app")
        eventually("the application listens", lambda: ready(swarm, "app_demo", 2))
        eventually("it is published", lambda: reached(swarm))
        yield swarm


def status(swarm: Swarm) -> int:
    return ask(swarm, swarm.manager.address, host=HOST).status


def reached(swarm: Swarm) -> bool:
    """Raises AssertionError if it is not."""
    reply = ask(swarm, swarm.manager.address, host=HOST)
    assert reply.status == 200
    assert json.loads(reply.body)["metadata"] == "reached over TLS"
    return True


def label(swarm: Swarm, key: str, value: str) -> None:
    added = f"com.docker.lb.{key}={value}"
    swarm.manager.docker("service", "update", "--detach", "--label-add", added, "app_demo")


def test_both_are_reached(backed: Swarm) -> None:
    seen = {ask(backed, backed.manager.address, host=HOST).instance for _ in range(4)}
    assert len(seen) == 2


def test_they_are_verified_by_the_authority_in_a_label(backed: Swarm) -> None:
    label(backed, "ssl_backend_tls_verify", "true")
    eventually("nobody knows who issued it", lambda: status(backed) == 502)
    label(backed, "ssl_backend_ca", (backed.manager.directory / "app.cert").read_text())
    eventually("it is trusted", lambda: reached(backed))


def test_they_are_verified_for_the_name_in_a_label(backed: Swarm) -> None:
    label(backed, "ssl_backend_server_name", "other.example.org")
    eventually("it is for another name", lambda: status(backed) == 502)
    label(backed, "ssl_backend_server_name", HOST)
    eventually("it is for this one", lambda: reached(backed))
