"""Certificates from Docker secrets and configs, by label: Interlock's own pages, typed word for
word, and what comes after them. Only the image's name is the locally built one's.

With a controller, which reads them and hands them out; and with proxies that read them by
themselves, on three managers and under load.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.swarm import images
from tests.swarm.engine import Swarm, at_once, eventually, run
from tests.swarm.images import DEMO_IMAGE
from tests.swarm.load import Load
from tests.swarm.stage import (
    Reply,
    create_demo,
    deploy,
    in_rotation,
    ready,
    service_settled,
    told,
)

SOON = 20.0
"""Seconds: far more than it takes (which is told), for a machine that is busy."""

INTERLOCK = f"""
openssl req \\
    -new \\
    -newkey rsa:4096 \\
    -days 3650 \\
    -nodes \\
    -x509 \\
    -subj "/C=US/ST=SomeState/L=SomeCity/O=Interlock/CN=demo.local" \\
    -keyout demo.local.key \\
    -out demo.local.cert
docker secret create demo.local.cert demo.local.cert
docker secret create demo.local.key demo.local.key
docker network create -d overlay demo
docker service create \\
    --name demo \\
    --network demo \\
    --label com.docker.lb.hosts=demo.local \\
    --label com.docker.lb.port=8080 \\
    --label com.docker.lb.ssl_cert=demo.local.cert \\
    --label com.docker.lb.ssl_key=demo.local.key \\
    {DEMO_IMAGE}
"""
"""docs.docker.com/ee/ucp/interlock/usage/tls, "SSL termination"."""

PASSTHROUGH = f"""
openssl req \\
    -new \\
    -newkey rsa:4096 \\
    -days 3650 \\
    -nodes \\
    -x509 \\
    -subj "/C=US/ST=SomeState/L=SomeCity/O=Interlock/CN=demo.local" \\
    -keyout app.key \\
    -out app.cert
docker secret create app.cert app.cert
docker secret create app.key app.key
docker network create -d overlay demo
docker service create \\
    --name demo \\
    --network demo \\
    --detach=false \\
    --secret source=app.cert,target=/run/secrets/cert.pem \\
    --secret source=app.key,target=/run/secrets/key.pem \\
    --label com.docker.lb.hosts=demo.local \\
    --label com.docker.lb.port=8080 \\
    --label com.docker.lb.ssl_passthrough=true \\
    --env METADATA="demo-ssl-passthrough" \\
    {DEMO_IMAGE} --tls-cert=/run/secrets/cert.pem --tls-key=/run/secrets/key.pem
"""
"""The same page, "SSL passthrough"."""

CURL = "curl -vsk --resolve demo.local:443:127.0.0.1 https://demo.local/ping"
"""As it stands there, but for --resolve, in place of an entry in /etc/hosts."""

COMPOSE = f"""\
version: "3.2"

services:
  demo:
    image: {DEMO_IMAGE}
    deploy:
      replicas: 1
      labels:
        com.docker.lb.hosts: app.example.org
        com.docker.lb.network: demo-network
        com.docker.lb.port: 8080
        com.docker.lb.ssl_cert: demo_app.example.org.cert
        com.docker.lb.ssl_key: demo_app.example.org.key
    environment:
      METADATA: proxy-handles-tls
    networks:
      - demo-network

networks:
  demo-network:
    driver: overlay
secrets:
  app.example.org.cert:
    file: ./app.example.org.cert
  app.example.org.key:
    file: ./app.example.org.key
"""
"""docs.docker.com/ee/ucp/interlock/usage/tls of another year, "Let the proxy handle TLS"."""

COMPOSE_TYPED = """
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

MAKE = """
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN={host} \\
    -addext subjectAltName=DNS:{host} -keyout {name}.key -out {name}.crt
"""

_ASK = (
    "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8081/{page}').read().decode())"
)


def make(swarm: Swarm, name: str, host: str, *, kind: str = "secret") -> None:
    """A certificate as two secrets, or its certificate as a config."""
    script = MAKE.format(name=name, host=host)
    script += (
        f"docker {kind} create {name}.crt {name}.crt; docker secret create {name}.key {name}.key"
    )
    swarm.manager.shell(script)


def proxies(swarm: Swarm) -> dict[str, str]:
    """The container of the proxy on each node, by the node's name. AssertionError while there are
    two, because one is being replaced."""
    mark = "label=com.docker.swarm.service.name=stickyproxy_proxy"
    running = {node.name: node.docker("ps", "-q", "--filter", mark).split() for node in swarm.nodes}
    assert all(len(found) == 1 for found in running.values()), running
    return {name: found[0] for name, found in running.items()}


def page(swarm: Swarm, name: str) -> list[Any]:
    """A page of each proxy's admin page."""
    command = ("python3", "-c", _ASK.format(page=name))
    running = proxies(swarm)
    return [json.loads(node.docker("exec", running[node.name], *command)) for node in swarm.nodes]


def shown(swarm: Swarm, host: str) -> str:
    """The name of the certificate for a host, which is the same on all proxies; empty: there is
    none on some of them."""
    names = {
        next((each["certificate"] for each in found["certificates"] if host in each["hosts"]), "")
        for found in page(swarm, "certificates")
    }
    return names.pop() if len(names) == 1 else ""


def https(swarm: Swarm, host: str, authority: str, target: str = "") -> Reply:
    """One request over TLS by a client that trusts that certificate alone."""
    target = target or swarm.manager.address
    return Reply.parse(
        run(
            swarm.as_client(
                *("curl", "-sS", "-i", "--http1.1", "--max-time", "20"),
                *("--cacert", swarm.manager.directory / authority),
                *("--resolve", f"{host}:443:{target}", f"https://{host}/ping"),
            )
        )
    )


def problems(swarm: Swarm, service: str) -> list[dict[str, Any]]:
    """What is wrong with a service."""
    found = page(swarm, "services?format=json")[0]["services"]
    rows = [row for row in found if row["service"] == service]
    return [problem for row in rows for problem in row["problems"]]


def relabel(swarm: Swarm, service: str, **labels: str) -> None:
    added = (f"--label-add=com.docker.lb.{key}={labels[key]}" for key in labels)
    swarm.manager.docker("service", "update", "--detach", *added, service)


def removed(swarm: Swarm, *names: str) -> bool:
    swarm.manager.docker("secret", "rm", *names)
    return True


def custodian(swarm: Swarm) -> bool:
    """Whether there is one."""
    names = [each["Spec"]["Name"] for each in swarm.manager.api("/services")]
    return "stickyproxy-secrets" in names


# --- with a controller --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planes(archive: Path) -> Iterator[Swarm]:
    """One node with the split stack."""
    with Swarm() as swarm:
        images.load(swarm.manager, archive)
        token = swarm.directory / "token"
        token.write_text(secrets.token_hex(32))
        swarm.manager.docker("secret", "create", "stickyproxy_token", token)
        deploy(swarm, "stack-split.yml")
        yield swarm


def test_interlocks_page(planes: Swarm) -> None:
    planes.manager.shell(INTERLOCK)
    began = time.monotonic()
    eventually("shown", lambda: shown(planes, "demo.local") == "secret demo.local.cert")
    told.append(f"first certificate: with all proxies {time.monotonic() - began:.2f} s after")
    typed = planes.manager.shell(CURL)
    assert "SSL connection using TLSv1.3" in typed
    assert "subject: C=US; ST=SomeState; L=SomeCity; O=Interlock; CN=demo.local" in typed
    assert "< x-upstream-addr: " in typed
    assert https(planes, "demo.local", "demo.local.cert").status == 200
    # Interlock's own instructions make one that browsers do not like: that is said, and no more.
    assert {each["fatal"] for each in problems(planes, "demo")} <= {False}


def test_another_secret_takes_its_place_and_the_old_one_can_be_removed(planes: Swarm) -> None:
    make(planes, "two", "demo.local")
    before = proxies(planes)
    began = time.monotonic()
    relabel(planes, "demo", ssl_cert="two.crt", ssl_key="two.key")
    eventually("swapped", lambda: shown(planes, "demo.local") == "secret two.crt", within=SOON)
    swapped = time.monotonic() - began
    eventually("rm", lambda: removed(planes, "demo.local.cert", "demo.local.key"), within=SOON)
    told.append(
        f"another secret: swapped {swapped:.2f} s after the label, "
        f"secret rm {time.monotonic() - began:.2f} s after it"
    )
    assert https(planes, "demo.local", "two.crt").status == 200
    assert proxies(planes) == before


def test_what_is_wrong_is_said_and_changes_nothing(planes: Swarm) -> None:
    relabel(planes, "demo", ssl_cert="none.crt")
    [problem] = eventually("said", lambda: problems(planes, "demo"), within=SOON)
    assert problem["remedy"] == "docker secret create none.crt none.crt"
    assert shown(planes, "demo.local") == "secret two.crt"
    make(planes, "three", "demo.local")
    relabel(planes, "demo", ssl_cert="three.crt", ssl_key="two.key")
    eventually(
        "the key is said not to fit",
        lambda: any("does not fit" in each["reason"] for each in problems(planes, "demo")),
        within=SOON,
    )
    assert shown(planes, "demo.local") == "secret two.crt"
    relabel(planes, "demo", ssl_key="three.key")
    eventually("swapped", lambda: shown(planes, "demo.local") == "secret three.crt", within=SOON)
    assert problems(planes, "demo") == []


def test_a_controller_that_is_replaced_takes_no_certificate_away(planes: Swarm) -> None:
    """It is silent until it has read them again."""
    node = planes.manager
    before = next(iter(node.running("stickyproxy_controller")))
    node.docker("service", "update", "--force", "--detach", "stickyproxy_controller")
    eventually(
        "another one",
        lambda: (
            service_settled(node, "stickyproxy_controller", 1)
            and before not in node.running("stickyproxy_controller")
        ),
    )
    create_demo(node, "hosts=after.local", "port=8080", name="after", replicas=1)
    eventually(
        "what happened since has come",
        lambda: any(
            row["service"] == "after" for row in page(planes, "services?format=json")[0]["services"]
        ),
    )
    assert shown(planes, "demo.local") == "secret three.crt"
    [proxy] = proxies(planes).values()
    lines = node.shell(f"docker logs {proxy} 2>&1").splitlines()
    assert not [line for line in lines if "token" in line]


def test_a_certificate_in_a_config(planes: Swarm) -> None:
    make(planes, "conf", "conf.local", kind="config")
    labels = ("hosts=conf.local", "port=8080", "ssl_cert=conf.crt", "ssl_key=conf.key")
    create_demo(planes.manager, *labels, name="conf", replicas=1)
    eventually("shown", lambda: shown(planes, "conf.local") == "config conf.crt", within=SOON)
    eventually("served", lambda: https(planes, "conf.local", "conf.crt").status == 200)


def test_interlocks_stack_file(planes: Swarm) -> None:
    (planes.manager.directory / "docker-compose.yml").write_text(COMPOSE)
    node = planes.manager
    eventually("demo is gone", lambda: node.docker("service", "rm", "demo"))
    node.shell(COMPOSE_TYPED)
    wanted = "secret demo_app.example.org.cert"
    eventually("shown", lambda: shown(planes, "app.example.org") == wanted, within=SOON)
    served = "app.example.org", "app.example.org.cert"
    eventually("served", lambda: https(planes, *served).status == 200, within=SOON)


def test_interlocks_page_on_passthrough(planes: Swarm) -> None:
    node = planes.manager
    node.docker("service", "rm", "after", "conf")  # they are on the network
    eventually("network rm", lambda: node.docker("network", "rm", "demo"), within=SOON)
    eventually(
        "its name is free",
        lambda: "demo" not in node.docker("network", "ls", "--format", "{{.Name}}").split(),
    )
    node.shell(PASSTHROUGH)
    eventually("served", lambda: https(planes, "demo.local", "app.cert").status == 200)
    typed = node.shell(CURL)
    assert "subject: C=US; ST=SomeState; L=SomeCity; O=Interlock; CN=demo.local" in typed
    assert '"metadata":"demo-ssl-passthrough"' in typed
    assert "x-upstream-addr" not in typed, "a proxy that passes TLS through adds nothing"
    node.docker("service", "rm", "demo")
    eventually("secret rm", lambda: removed(planes, "app.cert", "app.key"), within=SOON)


def _stack_removed(swarm: Swarm) -> str:
    return swarm.manager.shell("docker stack rm demo")


def test_nothing_is_left(planes: Swarm) -> None:
    node = planes.manager
    began = time.monotonic()
    # At first its secrets are in use, and so is its network: Docker says so, and removes the rest.
    eventually("stack rm", lambda: "Nothing found" in _stack_removed(planes), within=SOON)
    names = ("two.crt", "two.key", "three.crt", "three.key", "conf.key")
    eventually("secret rm", lambda: removed(planes, *names), within=SOON)
    told.append(f"last service removed: secret rm {time.monotonic() - began:.2f} s after")
    eventually("no custodian", lambda: not custodian(planes), within=SOON)
    left = node.docker("secret", "ls", "--format", "{{.Name}}").split()
    assert left == ["stickyproxy_token"]


# --- without one ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def managers(archive: Path) -> Iterator[Swarm]:
    """Three managers with the stack, and an application that has no certificate."""
    with Swarm(nodes=3, managers=3) as swarm:
        at_once(lambda node: images.load(node, archive), swarm.nodes)
        deploy(swarm)
        swarm.manager.docker("network", "create", "-d", "overlay", "demo")
        labels = ("hosts=demo.local", "sticky_session_cookie=session", "port=8080")
        create_demo(swarm.manager, *labels, replicas=6)
        eventually("it listens", lambda: ready(swarm, "demo", 6))
        eventually("it is in rotation", lambda: in_rotation(swarm, every(swarm), 6))
        yield swarm


def every(swarm: Swarm) -> list[str]:
    return [node.address for node in swarm.nodes]


def test_certificates_come_and_go_and_nobody_notices(managers: Swarm) -> None:
    before = proxies(managers)
    with Load(managers, every(managers)) as load:
        load.watch(rounds=2)
        make(managers, "a", "a.local")
        make(managers, "b", "a.local")
        labels = ("hosts=a.local", "port=8080", "ssl_cert=a.crt", "ssl_key=a.key")
        create_demo(managers.manager, *labels, name="a", replicas=1)
        began = time.monotonic()
        eventually("shown", lambda: shown(managers, "a.local") == "secret a.crt")
        first = time.monotonic() - began
        relabel(managers, "a", ssl_cert="b.crt", ssl_key="b.key")
        began = time.monotonic()
        eventually("swapped", lambda: shown(managers, "a.local") == "secret b.crt")
        second = time.monotonic() - began
        eventually("secret rm", lambda: removed(managers, "a.crt", "a.key"))
        free = time.monotonic() - began
        managers.manager.docker("service", "rm", "a")
        eventually("secret rm", lambda: removed(managers, "b.crt", "b.key"))
        eventually("no custodian", lambda: not custodian(managers))
        load.watch(rounds=2)
    told.append(
        f"on three managers: a certificate {first:.2f} s after its service, another "
        f"{second:.2f} s after the label, secret rm {free:.2f} s after it; "
        f"others meanwhile: {load.report}"
    )
    assert load.report.failures == []
    assert load.report.moves == []
    assert proxies(managers) == before


def test_a_proxy_that_is_replaced_has_them_from_the_start(managers: Swarm) -> None:
    """And clients who verify notice neither that nor another certificate."""
    node = managers.manager
    make(managers, "c", "c.local")
    make(managers, "d", "c.local")
    both = node.directory / "both.pem"
    both.write_text("".join((node.directory / f"{name}.crt").read_text() for name in "cd"))
    labels = ("hosts=c.local", "port=8080", "sticky_session_cookie=session")
    named = ("ssl_cert=c.crt", "ssl_key=c.key")
    create_demo(node, *labels, *named, name="c", replicas=2)
    eventually("it listens", lambda: ready(managers, "c", 2))
    eventually("shown", lambda: shown(managers, "c.local") == "secret c.crt")
    for each in every(managers):
        eventually("served", lambda t=each: https(managers, "c.local", "c.crt", t).status == 200)  # type: ignore[misc]
    before = proxies(managers)
    with Load(managers, every(managers), host="c.local", sessions=60, authority=both) as load:
        load.watch(rounds=2)
        node.docker("service", "update", "--force", "--detach", "stickyproxy_proxy")
        eventually(
            "all are new",
            lambda: not {*proxies(managers).values()} & {*before.values()},
            within=180,
        )
        load.watch(rounds=2)
        relabel(managers, "c", ssl_cert="d.crt", ssl_key="d.key")
        eventually("swapped", lambda: shown(managers, "c.local") == "secret d.crt")
        load.watch(rounds=2)
    told.append(f"https while proxies and then the certificate are replaced: {load.report}")
    assert load.report.failures == []
    assert load.report.moves == []
    assert https(managers, "c.local", "d.crt").status == 200


def test_the_custodian_goes_with_the_stack(managers: Swarm) -> None:
    """Nobody who is still there makes it anew."""
    assert custodian(managers)
    managers.manager.docker("stack", "rm", "stickyproxy")
    mark = "label=com.docker.swarm.service.name=stickyproxy_proxy"
    eventually(
        "all proxies are gone",
        lambda: not any(node.docker("ps", "-q", "--filter", mark) for node in managers.nodes),
        within=120,
    )
    assert not custodian(managers)
