"""What the tests of the suite do on a Swarm: deploy a stack, publish services, ask as clients."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stickyproxy.runtime.supervisor import usable_cores
from tests.swarm import images
from tests.swarm.engine import CommandError, Node, Swarm, eventually, run
from tests.swarm.load import Report

HEALTH = (
    "--env=STICKYPROXY_HEALTH=127.0.0.1:8080",
    "--health-cmd=python3 -ES /opt/stickyproxy/healthcheck.py",
    "--health-interval=3s",  # each check starts a process in the container, which is not cheap
)
"""Options that give the demo application a health check."""


DEMO_PORT = 8080
"""Where the demo application listens in its container."""

told: list[str] = []
"""What the tests have to tell beside passing; printed when all have run."""


@dataclass(frozen=True)
class Reply:
    """An HTTP response as curl shows it."""

    status: int
    headers: list[tuple[str, str]]
    body: str

    @classmethod
    def parse(cls, text: str) -> Reply:
        """Read what ``curl -i`` prints."""
        head, _, body = text.replace("\r\n", "\n").partition("\n\n")
        status, *fields = head.split("\n")
        pairs = (line.partition(":") for line in fields)
        return cls(
            int(status.split()[1]),
            [(name.lower(), value.strip()) for name, _, value in pairs],
            body,
        )

    def __getitem__(self, name: str) -> str:
        """The value of a header; empty if there is none, joined if there are several."""
        return ", ".join(value for key, value in self.headers if key == name)

    @property
    def address(self) -> str:
        """The endpoint that answered."""
        return self["x-upstream-addr"].split(", ")[-1]

    @property
    def instance(self) -> str:
        """Who the demo application says it is: the short id of its container."""
        return str(json.loads(self.body)["instance"])


def deploy(swarm: Swarm, stack: str | Path = "stack.yml", name: str = "stickyproxy") -> None:
    """Deploy one of the project's own stack files, as it is, or any other by its whole path, and
    wait until its tasks run."""
    path = images.CHECKOUT / "deploy" / stack
    swarm.manager.docker("stack", "deploy", "--resolve-image", "never", "-c", path, name)
    eventually(f"{name} runs", lambda: settled(swarm.manager, name), within=180)


def settled(node: Node, stack: str) -> bool:
    """Whether as many tasks run as are wanted, of every service of a stack, and no more."""
    services = node.api("/services?status=true", label=f"com.docker.stack.namespace={stack}")
    return bool(services) and all(
        service_settled(node, service["Spec"]["Name"], service["ServiceStatus"]["DesiredTasks"])
        for service in services
    )


def service_settled(node: Node, service: str, replicas: int) -> bool:
    """Whether a service runs exactly that many tasks, none is leaving, and no update is under
    way."""
    found = node.api(f"/services/{service}")
    if found.get("UpdateStatus", {}).get("State") == "updating":
        return False
    states = [
        (task["DesiredState"], task["Status"]["State"]) for task in node.tasks(service).values()
    ]
    busy = [each for each in states if "running" in each]
    return busy == [("running", "running")] * replicas


def ready(swarm: Swarm, service: str, replicas: int) -> bool:
    """Whether a service has settled and every replica of it listens.

    The engine takes a task for running as soon as its process has started, if it has no health
    check. What a client is answered before the application listens depends on how fast it is.
    """
    if not service_settled(swarm.manager, service, replicas):
        return False
    found = swarm.manager.running(service).items()
    nodes = swarm.nodes_by_id()
    return all(nodes[task["NodeID"]].listens(instance, DEMO_PORT) for instance, task in found)


def create_demo(
    node: Node,
    *labels: str,
    name: str = "demo",
    replicas: int = 5,
    network: str = "demo",
    options: Iterable[str] = (),
) -> None:
    """The demo application as a service with these ``com.docker.lb.`` labels."""
    node.docker(
        *("service", "create", "--detach", "--name", name, "--network", network, "--quiet"),
        *("--replicas", str(replicas), "--no-resolve-image"),
        *(f"--label=com.docker.lb.{label}" for label in labels),
        *options,
        images.DEMO_IMAGE,
    )


def ask(
    swarm: Swarm,
    target: str,
    *options: str,
    host: str = "demo.local",
    path: str = "/ping",
    interface: str | None = None,
) -> Reply:
    """One request from where the clients are, optionally from one of their addresses."""
    source = [] if interface is None else ["--interface", interface]
    return Reply.parse(
        run(
            swarm.as_client(
                *("curl", "-sS", "-i", "--max-time", "20", *source, *options),
                *("-H", f"Host: {host}", f"http://{target}{path}"),
            )
        )
    )


def published(swarm: Swarm, *targets: str, host: str = "demo.local", within: float = 60.0) -> None:
    """Wait until the proxies on those addresses answer 200 for a host. That is when the first
    replica is there: see ``in_rotation`` for the others."""
    for target in targets or (swarm.manager.address,):
        eventually(
            f"{host} is published on {target}",
            lambda target=target: ask(swarm, target, host=host).status == 200,  # type: ignore[misc]
            within=within,
        )


def in_rotation(
    swarm: Swarm, targets: Sequence[str], replicas: int, *, host: str = "demo.local"
) -> bool:
    """Whether new sessions are dealt to exactly that many replicas, whoever asks, through each of
    these proxies, and all of them answer.

    A proxy has several processes, each of which deals on its own and follows on its own. A
    connection stays with one of them: on each of many connections, one request more than there are
    replicas has to meet every one of them, and then the first again.
    """
    return all(
        _is_dealt_to_all(_dealt(swarm, target, host, replicas + 1), replicas)
        for target in targets
        for _ in range(_CONNECTIONS)
    )


_CONNECTIONS = 8 * usable_cores()
"""So many that hardly a process is left out by chance."""


def _is_dealt_to_all(answers: list[str], replicas: int) -> bool:
    every_one = len(set(answers)) == replicas and len(answers) == replicas + 1
    return every_one and answers[0] == answers[-1]


def _dealt(swarm: Swarm, target: str, host: str, times: int) -> list[str]:
    """Who answered new sessions on one connection, one after the other, at the first attempt."""
    shown = run(
        swarm.as_client(
            *("curl", "-sS", "-o", "/dev/null", "--max-time", "20", "-H", f"Host: {host}"),
            *("-w", "%{http_code} %{num_connects} %header{x-upstream-addr}\n"),
            f"http://{target}/ping?[1-{times}]",
        )
    )
    lines = [line.split(" ", 2) for line in shown.splitlines()]
    first, *others = lines
    same_connection = first[1] == "1" and all(opened == "0" for _, opened, _ in others)
    good = [who for status, _, who in lines if status == "200" and "," not in who]
    return good if same_connection else []


def proxy_logs(node: Node) -> str:
    """What the proxies, their connectors and the controller have logged, the newest last, but for
    requests that went well."""
    logs = []
    for service in node.api("/services"):
        name = service["Spec"]["Name"]
        if name.startswith("stickyproxy"):
            try:
                # A node that is gone keeps the engine waiting for its part of the log.
                command = f"docker service logs --no-trunc --tail 20000 {name}"
                text = node.shell(command, timeout=15)
            except CommandError as error:
                text = str(error)
            lines = [line for line in text.splitlines() if '" 200 ' not in line]
            logs += sorted(lines[-60:])
    return "\n".join(logs)


# --- why sessions moved -------------------------------------------------------------------------


class Instances:
    """Which task an instance name belongs to, and what has become of it."""

    def __init__(self, swarm: Swarm, service: str = "demo") -> None:
        """Looks at the tasks there are; ``note`` does so again."""
        self._node = swarm.manager
        self._service = service
        self._tasks: dict[str, dict[str, Any]] = {}
        self._listed: set[str] = set()
        self.note()

    def note(self) -> None:
        """Look at the tasks there are."""
        try:
            listed = self._node.tasks(self._service)
        except CommandError:
            listed = {}  # there is no such service at present
        self._listed = set(listed)
        self._tasks.update(listed)

    @property
    def gone(self) -> set[str]:
        """The instances whose task has gone or is to go, as last looked at."""
        return {name for name in self._tasks if self.fate(name) is not None}

    def fate(self, instance: str) -> str | None:
        """Why an instance takes no more sessions; None if nothing is wrong with it."""
        task = self._tasks.get(instance)
        if task is None:
            return None
        wanted, status = task["DesiredState"], task["Status"]
        if instance not in self._listed:
            return "the task was removed"
        if wanted == "running" and status["State"] == "running":
            return None
        said = status.get("Err") or status.get("Message") or ""
        return re.sub(r"\s+", " ", f"{status['State']}, wanted {wanted}: {said}")


def moves_table(title: str, report: Report, instances: Instances) -> str:
    """The table "session, from, to, why" of a load; sessions that went the same way share rows."""
    instances.note()
    ways: dict[tuple[str, str], list[int]] = {}
    for move in report.moves:
        ways.setdefault((move.came_from, move.went_to), []).append(move.session)
    lines = [f"{title}: {report}"]
    for came_from, went_to in sorted(ways):
        why = instances.fate(came_from) or "NOTHING IS WRONG WITH IT"
        lines.append(f"  from {came_from} to {went_to}, because: {why}")
        sessions = " ".join(str(session) for session in sorted(ways[came_from, went_to]))
        lines += textwrap.wrap(sessions, 90, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def unjustified(report: Report, instances: Instances) -> list[str]:
    """The moves away from an instance that nothing is wrong with."""
    return [
        f"session {move.session}: {move.came_from} -> {move.went_to}"
        for move in report.moves
        if instances.fate(move.came_from) is None
    ]
