"""Real Docker engines for the suite: one node or several, each in namespaces of its own.

A node is a process tree with its own network, mount, PID and host name namespaces: its dockerd,
containerd and containers live and die inside. Ending the first process of the PID namespace ends
all of them at once, mounts included, so nothing has to be hunted down, and a node that "dies" in a
test really does. Nodes are joined by a bridge in one more network namespace, where clients run.
The machine's own network, iptables rules and engine are not touched.

If this process dies, the kernel ends the nodes (parent death signal); the names and directories
that stay behind are removed by the next run.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

ROOT = Path(tempfile.gettempdir()) / "stickyproxy-swarm"
"""Short on purpose: unix sockets below it have 107 bytes for their path."""

SUBNET = "10.123.0"
CLIENT_ADDRESS = f"{SUBNET}.1"
NEEDED = {
    "dockerd": "docker.io",
    "docker": "docker.io",
    "docker-compose": "docker-compose",
    "iptables": "iptables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "mmdebstrap": "mmdebstrap",
    "curl": "curl",
    "openssl": "openssl",
}
"""What the suite runs, and the Debian package it comes in."""

TLS_PORT = 2376
_CERTIFICATES = """
{new_key} -x509 -subj /CN=ca -keyout ca.key -out ca.pem
sign() {{ openssl x509 -req -days 2 -CA ca.pem -CAkey ca.key -CAcreateserial "$@"; }}
{new_key} -subj /CN=engine -keyout engine.key -out engine.csr
sign -in engine.csr -out engine.pem -extfile <(echo subjectAltName=IP:{address})
{new_key} -subj /CN=client -keyout client.key -out client.csr
sign -in client.csr -out client.pem -extfile <(echo extendedKeyUsage=clientAuth)
"""
"""An authority, and what it vouches for: an engine, and who may use it."""

_LISTEN = "0A"
"""The state of a listening socket in ``/proc/net/tcp``."""

T = TypeVar("T")


def why_not() -> str | None:
    """Why this machine cannot run engines; None if it can."""
    if sys.platform != "linux":
        return f"it needs Linux, this is {sys.platform}"
    if os.geteuid() != 0:
        return "it needs root, to make network namespaces and run dockerd"
    missing = sorted({package for tool, package in NEEDED.items() if _which(tool) is None})
    if missing:
        return f"it needs Debian's packages {' '.join(missing)}"
    return None


def eventually(what: str, ask: Callable[[], T], *, within: float = 60.0, every: float = 0.2) -> T:
    """Ask until the answer is true; returns it. AssertionError with the last answer if it does
    not come within that many seconds; failed commands count as no answer yet."""
    deadline = time.monotonic() + within
    last: object = None
    while True:
        try:
            answer = ask()
            if answer:
                return answer
            last = answer
        except (CommandError, AssertionError, OSError, http.client.HTTPException) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {within:g} s; last: {last}")
        time.sleep(every)


def at_once(what: Callable[[T], object], everywhere: Iterable[T]) -> None:
    """Do something to several things at the same time. Raises what the first failure raised."""
    with ThreadPoolExecutor() as threads:
        list(threads.map(what, everywhere))


class CommandError(Exception):
    """A command failed; the message has its output."""


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 300.0,
) -> str:
    """Run a command and return what it prints. Raises CommandError if it fails or takes too
    long."""
    shown = " ".join(str(part) for part in command)
    try:
        done = subprocess.run(
            [str(part) for part in command],
            env=None if env is None else dict(env),
            timeout=timeout,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
            cwd=cwd,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{shown}\ndid not end within {timeout:g} s") from error
    if done.returncode != 0:
        raise CommandError(
            f"{shown}\nexit status {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        )
    return done.stdout


class Node:
    """One machine of the Swarm."""

    def __init__(self, name: str, address: str, directory: Path, netns: str) -> None:
        self.name = name
        self.address = address
        self.netns = netns
        self.directory = directory
        self.socket = directory / "docker.sock"
        self._has_tls = False
        self._first: subprocess.Popen[bytes] | None = None
        self._daemon: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Node {self.name} at {self.address}>"

    # --- its life -------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start the first process of the node; it holds the namespaces and reaps orphans."""
        self.directory.mkdir(parents=True, exist_ok=True)
        setup = (
            f"hostname {self.name} && mount -t tmpfs tmpfs /run && mkdir /run/lock && "
            # With SIGCHLD ignored the kernel reaps whatever the engine leaves behind.
            "exec env --ignore-signal=CHLD sleep infinity"
        )
        self._first = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL"),
                *("nsenter", f"--net=/run/netns/{self.netns}"),
                *("unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child=KILL"),
                *("--mount-proc", "sh", "-c", setup),
            ],
            stdin=subprocess.DEVNULL,
        )
        eventually(f"{self.name} boots", self._is_booted, within=10, every=0.02)

    def _is_booted(self) -> bool:
        return Path(f"/proc/{self._first_pid()}/cmdline").read_bytes().startswith(b"sleep\0")

    def _first_pid(self) -> int:
        """The process that is number 1 inside: the only child of ``unshare``."""
        assert self._first is not None
        pid = self._first.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            raise CommandError(f"{self.name} has no first process")
        return int(children[0])

    def start_engine(self) -> None:
        """Start dockerd and wait until it answers."""
        settings: dict[str, Any] = {
            "data-root": str(self.directory / "data"),
            "exec-root": str(self.directory / "exec"),
            "pidfile": str(self.directory / "docker.pid"),
            # The second one is where everybody expects it; /run is the node's own.
            "hosts": [f"unix://{self.socket}", "unix:///run/docker.sock"],
            "cgroup-parent": f"/{self._cgroup}",
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "log-level": "warn",
            "shutdown-timeout": 5,
        }
        if self._has_tls:
            settings |= {
                "hosts": [*settings["hosts"], f"tcp://{self.address}:{TLS_PORT}"],
                "tlsverify": True,
                "tlscacert": str(self.directory / "ca.pem"),
                "tlscert": str(self.directory / "engine.pem"),
                "tlskey": str(self.directory / "engine.key"),
            }
        config = self.directory / "daemon.json"
        config.write_text(json.dumps(settings))
        # A killed daemon leaves it behind, and the number may by now be another process's.
        (self.directory / "docker.pid").unlink(missing_ok=True)
        with (self.directory / "dockerd.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                self.inside("dockerd", "--config-file", str(config)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        eventually(f"the engine of {self.name} answers", self._engine_answers, within=60, every=0.1)

    def _engine_answers(self) -> bool:
        if self._daemon is None or self._daemon.poll() is not None:
            raise SystemError(f"dockerd of {self.name} ended:\n{self.log()}")
        return self._get("/_ping") == b"OK"

    def stop_engine(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End dockerd alone and wait for it. On SIGTERM it stops its containers first; on
        SIGKILL they run on until it is started again."""
        assert self._daemon is not None
        name = number.name.removeprefix("SIG")
        run(self.inside("kill", f"-{name}", str(self.engine_pid)))
        self._daemon.wait(60)

    def log(self) -> str:
        """The end of what dockerd has logged."""
        return (self.directory / "dockerd.log").read_text(errors="replace")[-3000:]

    def kill(self) -> None:
        """The whole node dies at once, as by a power failure: engine, containers, network."""
        if self._first is None:
            return
        with suppress(CommandError):
            run(["ip", "-n", self.netns, "link", "set", "eth0", "down"])
        self._first.kill()
        self._first.wait()
        if self._daemon is not None:
            self._daemon.wait(30)
        self._first = self._daemon = None

    def remove(self) -> None:
        """Kill it, and leave nothing of it."""
        self.kill()
        _remove_cgroups(self._cgroup)

    @property
    def _cgroup(self) -> str:
        return f"stickyproxy-{self.netns}"

    def certify(self) -> None:
        """Let the engine answer on TLS_PORT too, to who shows the right certificate, from its next
        start on. The directory gets ca.pem, client.pem and client.key."""
        new_key = "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
        script = _CERTIFICATES.format(new_key=new_key, address=self.address)
        run(["bash", "-euc", script], cwd=self.directory)
        self._has_tls = True

    # --- commands -------------------------------------------------------------------------------

    def inside(self, *command: str) -> list[str]:
        """That command, to run in the namespaces of the node. Not ``ip netns exec``: it hides
        the cgroup mounts."""
        target = str(self._first_pid())
        return ["nsenter", "--target", target, "--mount", "--pid", "--net", "--uts", *command]

    @property
    def environ(self) -> dict[str, str]:
        """The environment in which ``docker`` means this node's engine."""
        return {
            "PATH": _PATH,
            "LANG": "C.UTF-8",
            "HOME": str(self.directory),
            "DOCKER_HOST": f"unix://{self.socket}",
            # Nothing of the user's own: no credentials, contexts or plugins.
            "DOCKER_CONFIG": str(self.directory / "client"),
            "DOCKER_BUILDKIT": "0",  # BuildKit's client part is a download
        }

    def docker(self, *arguments: str | Path, timeout: float = 300.0) -> str:
        """Run a docker command against this node's engine; returns what it prints."""
        return run(["docker", *arguments], env=self.environ, timeout=timeout)

    def shell(self, script: str, *, cwd: Path | None = None, timeout: float = 120.0) -> str:
        """Run a script as somebody would who is logged in on this node; returns all it prints."""
        return run(
            ["nsenter", f"--net=/run/netns/{self.netns}", "bash", "-euc", f"exec 2>&1\n{script}"],
            env=self.environ,
            cwd=self.directory if cwd is None else cwd,
            timeout=timeout,
        )

    def api(self, path: str, **filters: str) -> Any:
        """What the engine answers to a GET. For what is asked again and again: a docker command
        is a process each time."""
        query = f"filters={quote(json.dumps({key: [value] for key, value in filters.items()}))}"
        return json.loads(self._get(f"/v1.41{path}{'&' if '?' in path else '?'}{query}"))

    def events(self, since: float, **filters: str) -> list[dict[str, Any]]:
        """What the engine has told of containers since then; it remembers some hundred events."""
        query = f"filters={quote(json.dumps({key: [value] for key, value in filters.items()}))}"
        period = f"since={since:.6f}&until={time.time():.6f}"
        lines = self._get(f"/v1.41/events?{period}&{query}").splitlines()
        return [event for event in map(json.loads, lines) if event["Type"] == "container"]

    def post(self, path: str, body: object) -> Any:
        """What the engine answers to a POST of that, as JSON."""
        return json.loads(self._request("POST", f"/v1.41{path}", json.dumps(body)))

    def _get(self, path: str) -> bytes:
        return self._request("GET", path)

    def _request(self, method: str, path: str, body: str | None = None) -> bytes:
        headers = {"Connection": "close"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(self.socket))
            client = http.client.HTTPConnection("engine")
            client.sock = connection
            client.request(method, path, body, headers)
            with client.getresponse() as answer:
                text = answer.read()
        if answer.status not in (http.HTTPStatus.OK, http.HTTPStatus.CREATED):
            raise CommandError(f"{method} {path}: {answer.status} {text!r}")
        return text

    def cpu_seconds(self, pid: int) -> float:
        """The time that a process has had, by its number on this node."""
        stat = Path(f"/proc/{self._first_pid()}/root/proc/{pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    @property
    def engine_pid(self) -> int:
        """The process of the engine, by its number on this node."""
        return int((self.directory / "docker.pid").read_text())

    def tasks(self, service: str) -> dict[str, dict[str, Any]]:
        """Instance -> task, of every task of a service that has or had a container. The instance
        is the container's short id, which is its host name too."""
        found = {}
        for task in self.api("/tasks", service=service):
            container = task["Status"].get("ContainerStatus", {}).get("ContainerID", "")
            if container:
                found[container[:12]] = task
        return found

    def listens(self, container: str, port: int) -> bool:
        """Whether something in a container of this node listens on a TCP port. Looked up in the
        kernel's table, so that the application sees nothing of it."""
        pid = self.api(f"/containers/{container}/json")["State"]["Pid"]
        tables = Path(f"/proc/{self._first_pid()}/root/proc/{pid}/net")
        return any(
            local.endswith(f":{port:04X}") and state == _LISTEN
            for table in (tables / "tcp", tables / "tcp6")
            for _, local, _, state, *_ in map(str.split, table.read_text().splitlines()[1:])
        )

    def running(self, service: str) -> dict[str, dict[str, Any]]:
        """Those that run and are meant to."""
        return {
            instance: task
            for instance, task in self.tasks(service).items()
            if task["Status"]["State"] == task["DesiredState"] == "running"
        }


class Swarm:
    """Nodes that form one Swarm; a context manager. The first node is a manager."""

    def __init__(self, nodes: int = 1, managers: int = 1, *, tls: bool = False) -> None:
        """``tls``: let the engines answer on TLS_PORT too."""
        _remove_leftovers()
        self._name = f"sp{os.getpid()}{secrets.token_hex(2)}"
        self.directory = ROOT / self._name
        self._managers = managers
        self._tls = tls
        self._switch = f"{self._name}s"
        self.nodes = [
            Node(
                f"node{number}",
                f"{SUBNET}.{10 + number}",
                self.directory / f"n{number}",
                f"{self._name}n{number}",
            )
            for number in range(1, nodes + 1)
        ]

    def __repr__(self) -> str:
        return f"<Swarm {self._name}: {len(self.nodes)} nodes>"

    @property
    def manager(self) -> Node:
        """The first node."""
        return self.nodes[0]

    def __enter__(self) -> Self:
        try:
            self._connect()
            for node in self.nodes:
                node.boot()
                if self._tls:
                    node.certify()
            at_once(Node.start_engine, self.nodes)
            self._join()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _connect(self) -> None:
        """A namespace for the clients with a bridge in it, and every node plugged into that."""
        self.directory.mkdir(parents=True)
        (self.directory / "owner").write_text(_identity(os.getpid()) or "")
        switch = self._switch
        _ip(f"netns add {switch}")
        _ip(f"-n {switch} link set lo up")
        _ip(f"-n {switch} link add br0 type bridge forward_delay 0")
        _ip(f"-n {switch} address add {CLIENT_ADDRESS}/24 dev br0")
        _ip(f"-n {switch} link set br0 up")
        for number, node in enumerate(self.nodes, 1):
            _ip(f"netns add {node.netns}")
            _ip(f"-n {switch} link add v{number} type veth peer name eth0 netns {node.netns}")
            _ip(f"-n {switch} link set v{number} master br0 up")
            _ip(f"-n {node.netns} link set lo up")
            _ip(f"-n {node.netns} address add {node.address}/24 dev eth0")
            _ip(f"-n {node.netns} link set eth0 up")

    def _join(self) -> None:
        first = self.manager
        first.docker("swarm", "init", "--advertise-addr", first.address)
        for number, node in enumerate(self.nodes[1:], 2):
            role = "manager" if number <= self._managers else "worker"
            token = first.docker("swarm", "join-token", "-q", role).strip()
            node.docker(
                "swarm", "join", "--token", token, "--advertise-addr", node.address, first.address
            )
        eventually("every node is ready", self.all_ready, within=60)

    def all_ready(self) -> bool:
        """True if the manager has every node in touch."""
        states = [node["Status"]["State"] for node in self.manager.api("/nodes")]
        return len(states) == len(self.nodes) and set(states) == {"ready"}

    def nodes_by_id(self) -> dict[str, Node]:
        """The nodes by the ids that the Swarm has given them."""
        found = {each["Description"]["Hostname"]: each["ID"] for each in self.manager.api("/nodes")}
        return {found[node.name]: node for node in self.nodes}

    def as_client(self, *command: str | Path) -> list[str]:
        """That command, to run where the clients are."""
        return ["nsenter", f"--net=/run/netns/{self._switch}", *(str(part) for part in command)]

    def add_client_address(self, number: int) -> str:
        """One more address for clients to come from; returns it."""
        address = f"{SUBNET}.{100 + number}"
        _ip(f"-n {self._switch} address replace {address}/24 dev br0")
        return address

    def remove(self) -> None:
        """End every node and leave nothing behind."""
        for node in self.nodes:
            node.remove()
        _remove_names(self._name)
        shutil.rmtree(self.directory, ignore_errors=True)


class Machine(Swarm):
    """One machine with an engine that is in no Swarm; a context manager."""

    def __init__(self, *, tls: bool = False) -> None:
        """``tls``: let the engine answer on TLS_PORT too."""
        super().__init__(tls=tls)

    def __repr__(self) -> str:
        return f"<Machine {self.node}>"

    @property
    def node(self) -> Node:
        """The machine."""
        return self.nodes[0]

    def _join(self) -> None:
        """There is nothing to join."""


# --- what is left behind ------------------------------------------------------------------------


def _remove_leftovers() -> None:
    """Remove what runs left behind whose process is gone. The kernel has ended their nodes."""
    for directory in ROOT.iterdir() if ROOT.exists() else ():
        try:
            owner = (directory / "owner").read_text()
        except OSError:
            continue
        if owner != _identity(int(owner.split()[0])):
            _remove_names(directory.name)
            shutil.rmtree(directory, ignore_errors=True)


def _identity(pid: int) -> str | None:
    """A process's number and start time, which together are never given twice."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return f"{pid} {stat.rpartition(')')[2].split()[19]}"


def _remove_names(name: str) -> None:
    """The network namespaces and control groups of the run of that name."""
    for netns in Path("/run/netns").glob(f"{name}*"):
        with suppress(CommandError):
            _ip(f"netns delete {netns.name}")
    _remove_cgroups(f"stickyproxy-{name}")


def _remove_cgroups(prefix: str) -> None:
    mount = Path("/sys/fs/cgroup")
    for top in [*mount.glob(f"*/{prefix}*"), *mount.glob(f"{prefix}*")]:
        for directory, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):  # one that is just being emptied stays, empty and harmless
                os.rmdir(directory)


# --- tools --------------------------------------------------------------------------------------

# Where root's tools are is missing in many a user's PATH.
_PATH = f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"


def _which(tool: str) -> str | None:
    return shutil.which(tool, path=_PATH)


def _ip(arguments: str) -> None:
    run(["ip", *arguments.split()])
