"""The failing lab: ``python -m bench.failing``, or ``make bench-failing``.

One of four replicas fails and is mended again, while requests come in at a steady rate, each on a
connection of its own and without a cookie. It counts what fails, and how long it takes until the
replica gets no more requests, and until it gets some again.

    0 s       the replica begins to fail, in one of the ways of ``WAYS``; its /healthz does too
    30 s      it is well again
    90 s      the end

All contenders run at once, each before replicas of its own. A request fails if it has no response
with status 200 within three seconds. Writes ``bench/results/failing.md`` and ``.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

from bench.environment import environment
from bench.load import HOST
from bench.processes import StartError
from bench.proxies import PROXIES, Proxy, RunningProxy, before, installed_version
from bench.templates import Target

RESULTS = Path(__file__).parent / "results"
REPLICAS = 4
RATE = 20.0
"""Requests in a second."""
PATIENCE = 3.0
"""Seconds until a client gives up."""
WARM_UP, FAILS, RETURNS = 12.0, 30.0, 60.0
"""Seconds before, during and after the failure. Before it every replica has passed two checks: some
proxies take what has never passed one out at once."""

PAUSE = 2.0
"""Seconds without a request of a client after which a replica is out of rotation: in it, it would
have got ten."""

CHECKS = 'healthcheck_path = "/healthz"\n'
ONE = "healthcheck_fall = 1\nhealthcheck_rise = 1\n"
"""As Traefik has it."""

# --- replicas ------------------------------------------------------------------------------------


async def _is_well(replica: Replica, reader: StreamReader, writer: StreamWriter) -> None:
    await replica.respond(reader, writer, b"200 OK")


async def _responds_503(replica: Replica, reader: StreamReader, writer: StreamWriter) -> None:
    await replica.respond(reader, writer, b"503 Service Unavailable")


async def _freezes(_replica: Replica, reader: StreamReader, _writer: StreamWriter) -> None:
    """As one that was stopped: the kernel accepts connections, and nobody responds."""
    while await reader.read(4096):
        pass


async def _resets(_replica: Replica, _reader: StreamReader, writer: StreamWriter) -> None:
    writer.transport.abort()


async def _slows_down(replica: Replica, reader: StreamReader, writer: StreamWriter) -> None:
    await replica.respond(reader, writer, b"200 OK", after=PATIENCE + 2)


Way = Callable[["Replica", StreamReader, StreamWriter], Awaitable[None]]
WAYS: dict[str, Way] = {
    "503": _responds_503,
    "frozen": _freezes,
    "reset": _resets,
    "slow": _slows_down,
}


class Replica:
    """A server that can fail. Requests that are under way when it does fail too."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.way: Way = _is_well
        self.asked: list[float] = []
        """When requests of clients came, by the loop's clock."""
        self._server: asyncio.Server | None = None

    async def start(self) -> Target:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return Target(self.name, self._server.sockets[0].getsockname()[1])

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                if not head.startswith(b"GET /healthz"):
                    self.asked.append(asyncio.get_running_loop().time())
                await self.way(self, reader, writer)
                if writer.transport.is_closing():
                    break
        writer.close()

    async def respond(
        self, _reader: StreamReader, writer: StreamWriter, status: bytes, after: float = 0.0
    ) -> None:
        await asyncio.sleep(after)
        body = self.name.encode()
        writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
        await writer.drain()


# --- clients -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """When it was sent, in seconds from the beginning of the failure, and what came back."""

    sent: float
    body: str
    """The name of the replica; empty: it failed."""


async def ask(port: int) -> str:
    """The body of a response with status 200; empty if there is none in time."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(
                    f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()
                )
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            finally:
                writer.close()
        if head.split()[1:2] == [b"200"]:
            return body.split(b"\r\n")[0].decode()
    return ""


# --- what was found ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of the requests of one contender."""

    requests: int
    failed: int
    left: float | None
    """Seconds until the last request that failed was sent; None: they did until the end."""
    back: float | None
    """Seconds from the end of the failure until the replica responds again; None: it did not."""
    out: float | None = None
    """Seconds from its beginning until the replica gets no more requests; None: it always did."""


def found(requests: Sequence[Request], victim: str) -> Finding:
    """Of requests in the order in which they were sent."""
    during = [each for each in requests if 0 <= each.sent < FAILS]
    failed = [each.sent for each in during if not each.body]
    last = max(failed, default=0.0)
    back = [each.sent - FAILS for each in requests if each.sent >= FAILS and each.body == victim]
    return Finding(
        requests=len([each for each in requests if each.sent >= 0]),
        failed=len([each for each in requests if each.sent >= 0 and not each.body]),
        left=None if last > FAILS - 2 else last,
        back=min(back, default=None),
    )


def out_after(asked: Sequence[float]) -> float | None:
    """See ``Finding.out``. ``asked``: when requests reached the replica, since the beginning of the
    failure."""
    during = [0.0, *(each for each in asked if 0 <= each < FAILS), FAILS]
    pairs = pairwise(during)
    return next((before for before, after in pairs if after - before >= PAUSE), None)


def cell(finding: Finding) -> str:
    """For people."""
    left = f"not in {FAILS:g} s" if finding.left is None else f"{finding.left:.1f} s"
    back = f"not in {RETURNS:g} s" if finding.back is None else f"{finding.back:.1f} s"
    return f"{finding.failed} / {left} / {back}"


def full_cell(finding: Finding) -> str:
    """With the time after which the replica was out of rotation."""
    return f"{cell(finding)} / {'never' if finding.out is None else f'{finding.out:.1f} s'}"


# --- the lab -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Contender:
    """A proxy, and how it is configured."""

    name: str
    proxy: Proxy
    asked: tuple[str, ...] = ()
    extra: str = ""
    """Appended to its configuration."""


def lineup(checkout: Path | None) -> list[Contender]:
    """Those that are installed. ``checkout``: another one of stickyproxy."""
    proxies = {proxy.name: proxy for proxy in PROXIES}
    ours = proxies["stickyproxy"]
    chosen = [
        *([] if checkout is None else [Contender("stickyproxy before", before(checkout))]),
        Contender("stickyproxy", ours),
        Contender("stickyproxy, eject_after_5xx = 3", ours, extra="eject_after_5xx = 3\n"),
        Contender("stickyproxy, checks", ours, extra=CHECKS),
        Contender("stickyproxy, both", ours, extra=f"{CHECKS}eject_after_5xx = 3\n"),
        Contender("stickyproxy, one check decides", ours, extra=f"{CHECKS}{ONE}"),
        Contender("HAProxy", proxies["HAProxy"]),
        Contender("HAProxy, checks", proxies["HAProxy"], ("checks",)),
        Contender("Traefik", proxies["Traefik"]),
        Contender("Traefik, checks", proxies["Traefik"], ("checks",)),
    ]
    return [each for each in chosen if each.proxy.find() is not None]


async def one(contender: Contender, way: Way, directory: Path) -> Finding:
    """Play one failure before one contender. Raises StartError."""
    replicas = [Replica(f"e{number}") for number in range(1, REPLICAS + 1)]
    targets = [await replica.start() for replica in replicas]
    victim = replicas[-1]
    running = RunningProxy(
        contender.proxy,
        directory,
        ("round_robin", *contender.asked),
        {"endpoints": targets},
        extra=contender.extra,
    )
    try:
        await asyncio.to_thread(running.start)
        began, requests = await steadily(running.port, victim, way)
        out = out_after([each - began for each in victim.asked])
        return replace(found(requests, victim.name), out=out)
    finally:
        await asyncio.to_thread(running.stop)
        for replica in replicas:
            replica.stop()


async def steadily(port: int, victim: Replica, way: Way) -> tuple[float, list[Request]]:
    """Send requests at a steady rate, let the victim fail and mend it; when that began, and what
    came back."""
    loop = asyncio.get_running_loop()
    began = loop.time() + WARM_UP
    loop.call_at(began, setattr, victim, "way", way)
    loop.call_at(began + FAILS, setattr, victim, "way", _is_well)

    async def send(when: float) -> Request:
        await asyncio.sleep(when - loop.time())
        return Request(when - began, await ask(port))

    count = int((WARM_UP + FAILS + RETURNS) * RATE)
    sent = (send(began - WARM_UP + n / RATE) for n in range(count))
    return began, await asyncio.gather(*sent)


async def play(way: Way, contenders: Sequence[Contender], directory: Path) -> list[Finding | None]:
    async def attempt(number: int, contender: Contender) -> Finding | None:
        try:
            return await one(contender, way, directory / str(number))
        except StartError as error:
            print(f"  {contender.name}: {error}")
            return None

    return await asyncio.gather(*(attempt(*each) for each in enumerate(contenders)))


def markdown(table: dict[str, dict[str, Finding | None]], lines: Sequence[str]) -> str:
    """The results for people."""
    ways = next(iter(table.values()))
    head = " | ".join(f"{way}: failed / last one after / back after / out after" for way in ways)
    rows = [
        " | ".join([name, *("-" if each is None else full_cell(each) for each in by_way.values())])
        for name, by_way in table.items()
    ]
    listed = [f"| | {head} |", f"|---|{'---|' * len(ways)}", *(f"| {row} |" for row in rows)]
    return "\n".join(["# A failing replica", "", *lines, "", *listed, ""])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.failing", description=__doc__)
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="another stickyproxy")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    contenders = lineup(options.before)
    table: dict[str, dict[str, Finding | None]] = {each.name: {} for each in contenders}
    for way in options.ways:
        print(f"{way} ...", flush=True)
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            findings = asyncio.run(play(WAYS[way], contenders, directory))
        for contender, finding in zip(contenders, findings, strict=True):
            table[contender.name][way] = finding
            print(f"  {contender.name}: {'-' if finding is None else cell(finding)}", flush=True)
    about = environment("make bench-failing")
    versions = {each.proxy.name: installed_version(each.proxy) for each in contenders}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines = [*about.lines(), f"- {listed}", f"- {RATE:g} requests/s, one of {REPLICAS} fails"]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "failing.md").write_text(markdown(table, lines))
    document = {
        "environment": asdict(about),
        "versions": versions,
        "contenders": {
            name: {way: None if each is None else asdict(each) for way, each in by_way.items()}
            for name, by_way in table.items()
        },
    }
    (RESULTS / "failing.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
