"""The speed lab: ``python -m bench.lab [--quick]``, or ``make bench``.

For each workload it starts the endpoints and every proxy, gives each its load in turn, several
rounds, and writes ``bench/results/speed.md``, ``.json`` and ``.svg``, and ``tls.md`` and ``.json``
for what goes over TLS. Everything listens on 127.0.0.1 and ends with the lab.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import goals, load, results
from bench.certificates import write_certificate
from bench.environment import environment, raise_file_limit
from bench.processes import Child, StartError, cpu_seconds, free_port, memory_kib
from bench.proxies import IN_SPEED_LAB, OURS, PEERS, Proxy, RunningProxy, before, installed_version
from bench.results import Row, Sample, Table
from bench.templates import Target, render
from bench.workloads import PLAIN, WORKLOADS, Variant, Workload

RESULTS = Path(__file__).parent / "results"
PROXY_CORE, LOAD_CORE = 0, 1
ENDPOINTS = 5
MANY_ENDPOINTS = 10
"""Ports that the endpoints listen on: services of the large tables have so many."""
SESSIONS = 20
CROWD = 64
FAREWELL_SECONDS = 0.3
"""After more than CROWD connections: until the proxy that had them has closed them all, so that
the next one has the core to itself."""
SPARE_FILES = 2000
QUICK_IDLE = 1000


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often."""

    seconds: int
    rounds: int
    warm_up: int
    idle: int
    """At most so many idle clients."""


@dataclass(frozen=True, slots=True)
class Contender:
    """The contender of a row: a proxy, and how it is run."""

    name: str
    proxy: Proxy
    variant: Variant = PLAIN


def main() -> None:
    options = _options()
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("The lab needs two cores: one for the proxy, one for the load.")
    if missing := [name for name in ("wrk", "nginx", "taskset") if _missing(name)]:
        sys.exit(f"The lab needs {', '.join(missing)}. On Debian: apt-get install wrk nginx-light")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    files = raise_file_limit()
    os.sched_setaffinity(0, {LOAD_CORE})
    idle = QUICK_IDLE if options.quick else files - SPARE_FILES
    plan = Plan(options.seconds, options.rounds, 0 if options.quick else 2, idle)
    command = _as_typed(sys.argv[1:])
    started = time.monotonic()
    tables: list[Table] = []
    for workload in _chosen(options.only, options.quick):
        print(f"{workload.title} ...", flush=True)
        tables.append(measure(workload, plan, _lineup(options)))
        _write(tables, command, plan)
    minutes = (time.monotonic() - started) / 60
    print(f"Written to bench/results after {minutes:.1f} minutes.")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.lab", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer workloads, short runs")
    parser.add_argument("--seconds", type=int, help="of each run (5; quick: 1)")
    parser.add_argument("--rounds", type=int, help="runs of each contender (5; quick: 2)")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="WORKLOAD",
        choices=[workload.key for workload in WORKLOADS],
        help=", ".join(workload.key for workload in WORKLOADS),
    )
    parser.add_argument(
        "--proxies",
        nargs="+",
        metavar="NAME",
        choices=[proxy.name for proxy in IN_SPEED_LAB],
        default=[proxy.name for proxy in IN_SPEED_LAB],
        help=", ".join(proxy.name for proxy in IN_SPEED_LAB),
    )
    parser.add_argument(
        "--before",
        type=Path,
        metavar="CHECKOUT",
        help="another checkout of stickyproxy, which becomes a contender",
    )
    options = parser.parse_args()
    options.seconds = options.seconds or (1 if options.quick else 5)
    options.rounds = options.rounds or (2 if options.quick else 5)
    return options


def _lineup(options: argparse.Namespace) -> list[Proxy]:
    chosen = [proxy for proxy in IN_SPEED_LAB if proxy.name in options.proxies]
    return chosen if options.before is None else [*chosen, before(options.before)]


def _as_typed(arguments: Sequence[str]) -> str:
    """The command that repeats this run."""
    rest = [argument for argument in arguments if argument != "--quick"]
    quick = "QUICK=1 " if "--quick" in arguments else ""
    return f"{quick}make bench" + (f" ARGS={shlex.quote(shlex.join(rest))}" if rest else "")


def _missing(name: str) -> bool:
    return shutil.which(name) is None and shutil.which(name, path="/usr/sbin") is None


def _chosen(only: Sequence[str] | None, quick: bool) -> list[Workload]:
    if only:
        return [workload for workload in WORKLOADS if workload.key in only]
    return [workload for workload in WORKLOADS if workload.quick or not quick]


def _write(tables: Sequence[Table], command: str, plan: Plan) -> None:
    """After each workload, so that a run that is stopped leaves what it has."""
    about = environment(command)
    versions = {proxy.name: installed_version(proxy) for proxy in IN_SPEED_LAB}
    listed = ", ".join(
        f"{name} {version or 'absent'}" for name, version in versions.items() if name != OURS
    )
    lines = [*about.lines(), f"- Runs: {plan.rounds} rounds of {plan.seconds} s", f"- {listed}"]
    RESULTS.mkdir(exist_ok=True)
    over_tls = {workload.key for workload in WORKLOADS if workload.tls}
    clear = [table for table in tables if table.key not in over_tls]
    secured = [table for table in tables if table.key in over_tls]
    for name, title, written in (("speed", "Speed", clear), ("tls", "Speed over TLS", secured)):
        if not written:
            continue
        document = {
            "environment": {**asdict(about), "rounds": plan.rounds, "seconds": plan.seconds},
            "versions": versions,
            "workloads": [results.as_json(table) for table in written],
        }
        (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
        (RESULTS / f"{name}.md").write_text(
            results.markdown(title, written, lines, goals.markdown(written))
        )
    if clear:
        (RESULTS / "speed.svg").write_text(results.chart(clear))


# --- one workload ---------------------------------------------------------------------------


def measure(workload: Workload, plan: Plan, proxies: Sequence[Proxy]) -> Table:
    """Run one workload against everything it is for."""
    table = Table(workload.key, workload.title, workload.why, bool(workload.variants))
    with tempfile.TemporaryDirectory(prefix="stickyproxy-bench-") as name, ExitStack() as stack:
        directory = Path(name)
        targets = stack.enter_context(endpoints(directory))
        arena = Arena(workload, plan, directory, targets, stack)
        for contender in _contenders(workload, proxies):
            table.rows.append(arena.enter(contender))
        if workload.idle:
            arena.hold_idle()
        else:
            arena.run_rounds()
    return table


def _contenders(workload: Workload, proxies: Sequence[Proxy]) -> list[Contender]:
    if workload.variants:
        ours = [proxy for proxy in proxies if proxy.name == OURS]
        return [Contender(variant.name, ours[0], variant) for variant in workload.variants if ours]
    return [Contender(proxy.name, proxy) for proxy in proxies]


class Arena:
    """Endpoints, proxies and loads of one workload; ``stack`` ends what is started."""

    def __init__(
        self,
        workload: Workload,
        plan: Plan,
        directory: Path,
        targets: Sequence[Target],
        stack: ExitStack,
    ) -> None:
        self._workload = workload
        self._plan = plan
        self._directory = directory
        self._targets = targets
        self._stack = stack
        self._certificate = (
            write_certificate(directory / "certificates", [load.HOST]) if workload.tls else None
        )
        self._running: list[tuple[Row, RunningProxy, Path]] = []

    def enter(self, contender: Contender) -> Row:
        """Start a contender, unless it is absent: then its row says so."""
        row = Row(contender.name)
        if contender.proxy.find() is None:
            row.absent = "absent: not installed"
        elif self._workload.policy not in contender.proxy.policies:
            row.absent = "has no such policy"
        else:
            try:
                running = self._start(contender)
                asked = self._requests(contender, running)
            except (StartError, load.LoadError) as error:
                row.absent = "did not start"
                print(f"  {contender.name}: {error}", file=sys.stderr)
                return row
            self._running.append((row, running, asked))
        return row

    def run_rounds(self) -> None:
        """The load of each contender in turn, each round starting with another one."""
        for _, running, asked in self._running:
            if self._plan.warm_up:
                self._load(running, asked, self._plan.warm_up)
        seconds = max(self._plan.seconds, self._workload.least_seconds)
        for number in range(self._plan.rounds):
            first = number % max(1, len(self._running))
            for row, running, asked in self._running[first:] + self._running[:first]:
                before = cpu_seconds(running.pid)
                found = self._load(running, asked, seconds)
                row.samples.append(Sample(found, cpu_seconds(running.pid) - before))
                row.peak_kib = memory_kib(running.pid)

    def hold_idle(self) -> None:
        """Memory with many idle clients, less that without."""
        count = min(self._workload.idle, self._plan.idle)
        asked = load.request(self._workload.path)
        for row, running, _ in self._running:
            _get(running.port, asked, self._workload.tls)
            before = memory_kib(running.pid, "VmRSS")
            if self._workload.tls:
                found = _hold_tls(running, count, asked)
            else:
                found = asyncio.run(_hold(running, count, asked))
            row.idle_clients, row.idle_failures, with_clients = found
            row.idle_kib = (with_clients - before) / max(1, row.idle_clients)
            row.peak_kib = memory_kib(running.pid)

    def _load(self, running: RunningProxy, asked: Path, seconds: int) -> load.Load:
        if self._workload.connections > CROWD:
            time.sleep(FAREWELL_SECONDS)
        workload = self._workload
        if workload.tls and workload.fresh:
            return load.handshakes(
                running.port,
                asked,
                connections=workload.connections,
                seconds=seconds,
                core=LOAD_CORE,
                resumed=workload.resumed,
            )
        return load.wrk(
            running.port,
            asked,
            connections=workload.connections,
            seconds=seconds,
            core=LOAD_CORE,
            tls=workload.tls,
        )

    def _start(self, contender: Contender) -> RunningProxy:
        directory = self._directory / re.sub(r"\W+", "-", contender.name)
        variant = contender.variant
        command = None
        if variant.swaps or variant.rotates:
            kind, number = (
                ("swaps", variant.swaps) if variant.swaps else ("rotates", variant.rotates)
            )
            config = str(directory / "config.toml")
            command = [sys.executable, "-m", "bench.runner", kind, config, str(number)]
        # the last endpoint comes and goes, and is not one of those with sessions
        count = ENDPOINTS + 1 if variant.swaps else ENDPOINTS
        extra = _more_services(variant.services, self._targets)
        values: dict[str, str] = {}
        asked = [self._workload.policy, *variant.asked]
        if self._certificate:
            asked.append("tls")
            values = self._certificate.values()
            extra += _more_certificates(
                variant.certificates, directory.with_suffix(".certificates")
            )
        running = RunningProxy(
            contender.proxy,
            directory,
            asked,
            {"endpoints": self._targets[:count]},
            core=PROXY_CORE,
            command=command,
            extra=extra,
            values=values,
        )
        self._stack.callback(running.stop)
        running.start()
        return running

    def _requests(self, contender: Contender, running: RunningProxy) -> Path:
        """What wrk sends: a few sessions in turn, each with the cookies it was given."""
        workload, hosts = self._workload, _hosts(contender.variant.loaded)
        requests = []
        for number in range(1 if workload.upload else max(SESSIONS, len(hosts))):
            host = hosts[number % len(hosts)]
            first = load.request("/116", host=host, user=f"user-{number}", close=True)
            cookie = ""
            if workload.policy == "cookie":
                cookie = _cookies(_get(running.port, first, workload.tls))
            if workload.policy == "cookie" and not cookie:
                cookie = f"session=app-session-{number}"  # the proxy hashes what the app sets
            requests.append(
                load.request(
                    workload.path,
                    host=host,
                    cookie=cookie,
                    user=f"user-{number}" if workload.policy == "consistent_hash" else "",
                    upload=workload.upload,
                    close=workload.fresh,
                )
            )
        name = f"requests-{re.sub(r'[^a-z0-9]+', '-', contender.name.lower())}"
        return load.write_requests(self._directory / name, requests)


async def _hold(running: RunningProxy, count: int, asked: bytes) -> tuple[int, int, int]:
    """Clients connected, clients that failed, and the proxy's memory meanwhile."""
    async with load.crowd(running.port, count, asked) as crowd:
        await asyncio.sleep(1)
        return crowd.connected, crowd.failed, memory_kib(running.pid, "VmRSS")


def _hold_tls(running: RunningProxy, count: int, asked: bytes) -> tuple[int, int, int]:
    """As ``_hold``."""
    with load.tls_crowd(running.port, count, asked) as crowd:
        time.sleep(1)
        return crowd.connected, crowd.failed, memory_kib(running.pid, "VmRSS")


def _get(port: int, request: bytes, tls: bool) -> http.client.HTTPMessage:
    """The head of the response, once it is a good one: some proxies listen before they have their
    routes. Raises LoadError."""
    lines = request.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if line)
    context = load.trusting()
    deadline = time.monotonic() + 10
    status = 0
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            if tls:
                plain = socket.create_connection(("127.0.0.1", port), timeout=5)
                connection.sock = context.wrap_socket(plain, server_hostname=headers["Host"])
            connection.request("GET", lines[0].split()[1], headers=headers)
            answer = connection.getresponse()
            answer.read()
            status = answer.status
            if status == 200:
                return answer.headers
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.05)
    raise load.LoadError(f"no good response within 10 s, the last status was {status}")


def _cookies(headers: http.client.HTTPMessage) -> str:
    """The cookies that a browser would send back."""
    return "; ".join(value.split(";")[0] for value in headers.get_all("Set-Cookie", []))


# --- endpoints and large tables -------------------------------------------------------------


@contextmanager
def endpoints(directory: Path) -> Iterator[list[Target]]:
    """nginx on the load's core, responding on several ports of 127.0.0.1."""
    home = directory / "endpoints"
    files = home / "files"
    files.mkdir(parents=True)
    (files / "10k").write_bytes(b"x" * 10_000)
    (files / "1m").write_bytes(b"x" * (1 << 20))
    targets = [Target(f"e{number}", free_port()) for number in range(1, MANY_ENDPOINTS + 1)]
    values = {"dir": str(home), "user": getpass.getuser(), "body": "x" * 115 + "\\n"}
    config = home / "nginx.conf"
    config.write_text(
        render((PEERS / "endpoints.conf").read_text(), (), values, {"endpoints": targets})
    )
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    command = [binary, "-p", str(home), "-c", str(config), "-e", str(home / "error.log")]
    with Child(command, home / "output.log", core=LOAD_CORE) as child:
        child.wait_for(targets[-1].port)
        yield targets


def _hosts(services: int) -> list[str]:
    """The host names of the large tables; the first is in every table."""
    return [load.HOST, *(f"service-{number}.test" for number in range(1, services))]


def _more_services(count: int, targets: Sequence[Target]) -> str:
    """Configuration of all but the first service."""
    addresses = ", ".join(f'"{target.host}:{target.port}"' for target in targets)
    return "".join(
        f'\n[[services]]\nname = "service-{number}"\nhosts = ["{host}"]\n'
        f'sticky_session_cookie = "session"\nendpoints = [{addresses}]\n'
        for number, host in enumerate(_hosts(count)[1:], 1)
    )


def _more_certificates(count: int, directory: Path) -> str:
    """Configuration of all but the first certificate."""
    several = [write_certificate(directory, [host]).values() for host in _hosts(count)[1:]]
    return "".join(
        f'\n[[certificates]]\ncert = "{values["cert"]}"\nkey = "{values["key"]}"\n'
        for values in several
    )


if __name__ == "__main__":
    main()
