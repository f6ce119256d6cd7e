"""The hostile lab: ``python -m bench.hostile [--before CHECKOUT]``, or ``make bench-hostile``.

What an attack costs other clients: response times while nothing else happens and during the
attack, the memory that hoarding takes, and what is left over afterwards. Each attack meets
stickyproxy, nginx and HAProxy in turn, and with ``--before`` another checkout of stickyproxy too,
so that before and after come from one run. Everything listens on 127.0.0.1 and ends with the lab.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.attacks import (
    ATTACKS,
    Attack,
    Felt,
    endpoint,
    flood,
    greet,
    hoarding,
    observe,
    running,
)
from bench.certificates import write_certificate
from bench.environment import environment, raise_file_limit
from bench.processes import StartError, descriptors, free_port, memory_kib
from bench.proxies import OURS, PROXIES, Proxy, RunningProxy, installed_version
from bench.templates import Target

CHECKOUT = Path(__file__).parents[1]
CORES = (0, 1)
"""The proxy has one to itself if there are two at least; all else shares the other ones."""
ESTABLISHED_SECONDS = 1.0
"""From the beginning of an attack until other clients are measured."""


def _ours(name: str, checkout: Path) -> Proxy:
    """stickyproxy as it is in that checkout, run by this interpreter."""
    return Proxy(
        name,
        lambda: sys.executable,
        {"config.toml": "hostile.toml"},
        lambda binary, config, _: [
            *(binary, "-P", "-m", "stickyproxy", "serve", "--config", str(config))
        ],
        environment={"PYTHONPATH": str(checkout)},
    )


def _contenders(before: Path | None) -> list[Proxy]:
    by_name = {proxy.name: proxy for proxy in PROXIES}
    nginx = replace(
        by_name["nginx (Debian)"], name="nginx", files={"nginx.conf": "hostile-nginx.conf"}
    )
    haproxy = replace(by_name["HAProxy"], files={"haproxy.cfg": "hostile-haproxy.cfg"})
    earlier = [] if before is None else [_ours(f"{OURS} before", before.resolve())]
    found = [_ours(OURS, CHECKOUT), *earlier, nginx, haproxy]
    return [proxy for proxy in found if proxy.find() is not None]


@dataclass(frozen=True, slots=True)
class Held:
    """What a proxy has: memory in MiB, and open descriptors."""

    memory: float
    descriptors: int

    @classmethod
    def by(cls, pid: int) -> Held:
        """A process with all its descendants, now."""
        return cls(memory_kib(pid, "VmRSS") / 1024, descriptors(pid))

    def __str__(self) -> str:
        return f"{self.memory:.0f} / {self.descriptors}"


@dataclass(frozen=True, slots=True)
class Result:
    """How one proxy withstood one attack."""

    attack: Attack
    proxy: str
    quiet: Felt
    attacked: Felt
    before: Held
    held: Held
    after: Held

    def line(self) -> str:
        """A row of the table."""
        ratio = self.attacked.p99 / self.quiet.p99 if self.quiet.p99 else float("inf")
        times = f"{self.quiet.p50:.1f} / {self.quiet.p99:.1f} | "
        times += f"{self.attacked.p50:.1f} / {self.attacked.p99:.1f} | {ratio:.1f}"
        held = f"{self.before} | {self.held} | {self.after}"
        return f"| {self.proxy} | {times} | {self.attacked.failures} | {held} |"


HEADER = (
    "| | quiet p50 / p99, ms | attacked p50 / p99, ms | p99 ratio | failed "
    "| MiB / descriptors before | attacked | after |\n|---|--:|--:|--:|--:|--:|--:|--:|"
)


def _cores() -> tuple[int | None, set[int] | None]:
    """The proxy's core and those of all others."""
    ours = sorted(os.sched_getaffinity(0))
    return (ours[0], set(ours[1:])) if len(ours) > 1 else (None, None)


@contextmanager
def _started(
    proxy: Proxy, targets: dict[str, list[Target]], core: int | None, tls: bool
) -> Iterator[RunningProxy]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        started = RunningProxy(
            proxy,
            directory / "proxy",
            ["tls"] if tls else [],
            targets,
            core=core,
            values=write_certificate(directory, ["good.test"]).values() if tls else None,
        )
        try:
            started.start()
            yield started
        finally:
            started.stop()


def _attacked(
    attack: Attack, port: int, cores: set[int] | None
) -> contextlib.AbstractContextManager[None]:
    if attack.hoards:
        return hoarding(port, attack, cores)
    if attack.greets:
        return running(greet, port, attack.clients, attack.first, cores=cores)
    sent = (port, attack.clients, attack.first, attack.again, attack.answers)
    return running(flood, *sent, cores=cores)


def meet(attack: Attack, proxy: Proxy, seconds: float) -> Result:
    """One attack on a proxy that was started for it. Raises StartError."""
    core, others = _cores()
    good, bad = Target("s1", free_port()), Target("s2", free_port())
    with ExitStack() as stack:
        stack.enter_context(running(endpoint, good.port, cores=others))
        stack.enter_context(running(endpoint, bad.port, cores=others))
        targets = {"good": [good], "bad": [bad]}
        started = stack.enter_context(_started(proxy, targets, core, attack.tls))
        observe(started.port, 1.0, tls=attack.tls)
        quiet = observe(started.port, seconds, tls=attack.tls)
        before = Held.by(started.pid)
        with _attacked(attack, started.port, others):
            time.sleep(ESTABLISHED_SECONDS)
            attacked = observe(started.port, seconds, tls=attack.tls)
            held = Held.by(started.pid)
        time.sleep(ESTABLISHED_SECONDS)
        after = Held.by(started.pid)
    return Result(attack, proxy.name, quiet, attacked, before, held, after)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--before", type=Path, help="another checkout of stickyproxy")
    parser.add_argument(
        "--rows", nargs="+", default=["2", "3", "5", "6", "tls"], help="of the issue"
    )
    parser.add_argument("--proxies", nargs="+", help="only those; default: all there are")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    parser.add_argument("--quick", action="store_true", help="shorter, with fewer connections")
    options = parser.parse_args(arguments)
    raise_file_limit()
    _, others = _cores()
    if others:
        os.sched_setaffinity(0, others)
    proxies = _contenders(options.before)
    versions = ", ".join(f"{each.name} {installed_version(each)}" for each in proxies[-2:])
    shown = environment("make bench-hostile")
    print("\n".join([*shown.lines(), f"- Peers: {versions}", ""]))
    for attack in ATTACKS:
        if attack.row not in options.rows:
            continue
        wanted = replace(attack, clients=min(attack.clients, 200)) if options.quick else attack
        print(f"\n### Row {attack.row}: {wanted.name} ({wanted.clients} clients)\n\n{HEADER}")
        for proxy in proxies:
            if options.proxies and proxy.name not in options.proxies:
                continue
            try:
                print(
                    meet(wanted, proxy, 2.0 if options.quick else options.seconds).line(),
                    flush=True,
                )
            except StartError as error:
                print(f"| {proxy.name} | {str(error)[:60]} |")


if __name__ == "__main__":
    main()
