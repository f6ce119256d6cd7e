"""The affinity lab: ``python -m bench.affinity``, or ``make bench-affinity``.

Clients with cookie jars visit an application of five endpoints through every proxy, while things
happen that happen in production. It counts the share of clients that got it wrong, for
applications that set a cookie of the very name that the proxy uses, and for one that sets none.
Writes ``bench/results/affinity.md`` and ``.json``. Everything listens on 127.0.0.1.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from bench.apps import App, Kind
from bench.browser import Answer, Browser
from bench.environment import environment
from bench.processes import StartError, free_port
from bench.proxies import OURS, PROXIES, Proxy, RunningProxy, installed_version
from bench.templates import Target

RESULTS = Path(__file__).parent / "results"
ENDPOINTS = 5
SETTLE_SECONDS = 1.5
"""After a change, until health checks have seen it and reloads are done."""
AT_ONCE = 3
"""Proxies that are examined at the same time; they mostly wait."""
FLAPS = 2
PARALLEL = 6
"""Connections that a browser opens to one site."""


@dataclass(slots=True)
class Share:
    """How many got it wrong, of how many."""

    wrong: int = 0
    of: int = 0

    def count(self, wrong: bool) -> None:
        self.wrong += wrong
        self.of += 1

    def __str__(self) -> str:
        if not self.of:
            return "?"
        percent = 100 * self.wrong / self.of
        return "<1" if 0 < percent < 0.5 else f"{percent:.0f}"


Shares = dict[str, Share]


class Stage:
    """A proxy, the endpoints behind it and the clients before it."""

    def __init__(
        self, proxy: Proxy, directory: Path, *, policy: str, kind: Kind, clients: int
    ) -> None:
        self.clients = clients
        self.kind: Kind = kind
        self._proxy = proxy
        self._directory = directory
        self._asked = [policy, "affinity"]
        self._apps: dict[str, App] = {}
        self._second: list[Target] = []
        self._running: list[RunningProxy] = []
        self.targets: list[Target] = []
        self._coming: list[Target] = []

    async def open(self, *, two: bool = False) -> None:
        """Five endpoints, and the proxy in front of them; ``two``: another five below /b/."""
        for number in range(1, ENDPOINTS + 1):
            self.targets.append(await self.start_app(f"e{number}", slot=str(number)))
        if two:
            self._asked.append("two")
            for number in range(1, ENDPOINTS + 1):
                self._second.append(await self.start_app(f"s{number}", second=True))
        await self.start_proxy()
        await self._until_served()

    async def close(self) -> None:
        for running in self._running:
            await asyncio.to_thread(running.stop)
        for app in self._apps.values():
            await app.stop()

    async def start_app(
        self, name: str, port: int | None = None, *, second: bool = False, slot: str = ""
    ) -> Target:
        """An endpoint of that identity, on any free port or at an address that was another's."""
        target = Target(name, port or free_port(), slot=slot)
        app = App(target, self.kind, path="/b/" if second else "/")
        await app.start()
        self._apps[name] = app
        return target

    async def stop_app(self, name: str) -> None:
        await self._apps[name].stop()

    async def resume_app(self, name: str) -> None:
        await self._apps[name].start()

    async def start_proxy(self) -> None:
        """The proxy; a second time: another one of the same configuration."""
        number = len(self._running)
        running = RunningProxy(
            self._proxy, self._directory / f"proxy-{number}", self._asked, self._all_targets()
        )
        self._running.append(running)
        await asyncio.to_thread(running.start)
        await self._until_served()

    async def restart_proxy(self) -> None:
        await asyncio.to_thread(self._running[0].restart)
        await self._until_served()

    async def publish(self, targets: Sequence[Target], coming: Sequence[Target] = ()) -> None:
        """Tell the proxy that these are the endpoints from now on. ``coming``: for a proxy that can
        be told, whose successors are about to be."""
        self.targets, self._coming = list(targets), list(coming)
        running = self._running[0]
        running.write(self._all_targets())
        await asyncio.to_thread(running.reload)
        await asyncio.sleep(SETTLE_SECONDS)

    def _all_targets(self) -> dict[str, Sequence[Target]]:
        return {"endpoints": self.targets, "second": self._second, "coming": self._coming}

    async def visit(self, browser: Browser, path: str = "/", *, proxy: int = 0) -> Answer:
        return await browser.get(self._running[proxy].port, path)

    async def newcomers(self) -> list[Visitor]:
        """Clients that have visited twice, one after the other, and so should be settled."""
        found = []
        for _ in range(self.clients):
            browser = Browser()
            await self.visit(browser)
            found.append(Visitor(browser, (await self.visit(browser)).endpoint))
        return found

    async def _until_served(self) -> None:
        """Until a new client is served: some proxies listen before they have their routes, or
        before their health checks have passed."""
        for running in self._running:
            for _ in range(100):
                if not (await Browser().get(running.port)).failed:
                    break
                await asyncio.sleep(0.1)
            else:
                raise StartError(f"{self._proxy.name} serves no request")


@dataclass(slots=True)
class Visitor:
    """A browser and the endpoint it belongs to."""

    browser: Browser
    home: str


# --- the cases ------------------------------------------------------------------------------


async def first_requests(stage: Stage) -> Shares:
    """First and second request; the application's own cookie; another proxy."""
    differ, lost, disagree = Share(), Share(), Share()
    await stage.start_proxy()
    for _ in range(stage.clients):
        browser = Browser()
        first = await stage.visit(browser)
        second = await stage.visit(browser)
        differ.count(second.failed or first.endpoint != second.endpoint)
        third = await stage.visit(browser)
        lost.count(
            first.issued not in second.got or (second.issued or first.issued) not in third.got
        )
        other = await stage.visit(browser, proxy=1)
        disagree.count(other.failed or other.endpoint != third.endpoint)
    shares = {"differ": differ, "disagree": disagree}
    return shares if stage.kind == "none" else {**shares, "lost": lost}


async def parallel_first_requests(stage: Stage) -> Shares:
    """Six requests of a browser that has no cookie yet; then it must have one home."""
    share = Share()
    for _ in range(stage.clients):
        browser = Browser()
        await asyncio.gather(*(stage.visit(browser) for _ in range(PARALLEL)))
        answers = [await stage.visit(browser) for _ in range(3)]
        knows = all(answer.knows for answer in answers) or stage.kind == "none"
        share.count(not (_steady(answers) and knows))
    return {"parallel": share}


async def grow(stage: Stage) -> Shares:
    """Five endpoints become ten: no client has to move."""
    visitors = await stage.newcomers()
    more = [await stage.start_app(f"e{number}") for number in range(6, 11)]
    await stage.publish([*stage.targets, *more])
    return {"grow": await _moved(stage, visitors)}


async def shrink(stage: Stage) -> Shares:
    """One of five endpoints is removed: the clients of the others stay."""
    visitors = await stage.newcomers()
    await stage.publish(stage.targets[1:])
    await stage.stop_app("e1")
    others = [visitor for visitor in visitors if visitor.home != "e1"]
    return {"shrink": await _moved(stage, others)}


async def death(stage: Stage) -> Shares:
    """An endpoint dies while it is in the configuration."""
    failed, unstable = Share(), Share()
    visitors = await stage.newcomers()
    await stage.stop_app("e1")
    for visitor in visitors:
        failed.count((await stage.visit(visitor.browser)).failed)
    await asyncio.sleep(SETTLE_SECONDS)
    for visitor in visitors:
        if visitor.home == "e1":
            answers = [await stage.visit(visitor.browser) for _ in range(4)]
            unstable.count(not _steady(answers))
    return {"death-failed": failed, "death-unstable": unstable}


async def restart(stage: Stage) -> Shares:
    """The proxy is restarted."""
    visitors = await stage.newcomers()
    await stage.restart_proxy()
    return {"restart": await _moved(stage, visitors)}


async def rolling_replacement(stage: Stage) -> Shares:
    """One endpoint after the other is replaced by a new one. A client of one that is still there
    stays; one that has to move is steady again at once."""
    visitors = await stage.newcomers()
    wrong = [False] * len(visitors)
    for number in range(1, ENDPOINTS + 1):
        old = f"e{number}"
        new = await stage.start_app(f"e{number + ENDPOINTS}")
        await stage.publish([new if target.id == old else target for target in stage.targets])
        await stage.stop_app(old)
        for index, visitor in enumerate(visitors):
            answers = [await stage.visit(visitor.browser) for _ in range(2)]
            stayed = visitor.home == old or answers[0].endpoint == visitor.home
            wrong[index] |= not (_steady(answers) and stayed)
            visitor.home = answers[1].endpoint
    return {"rolling": Share(sum(wrong), len(wrong))}


@dataclass(slots=True)
class Update:
    """What became of clients when all endpoints were replaced one after the other."""

    moves: float
    """Per client."""
    most: int
    """Moves of one client."""
    failed: int
    """Requests."""
    before: float
    """Clients of the endpoint that has the most, by the mean."""
    after: float

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        spread = f"{self.before:.2f} -> {self.after:.2f}"
        return f"{self.moves:.2f}, at most {self.most}{failed}; {spread}"


async def update(stage: Stage, *, start_first: bool) -> Update:
    """An endpoint is replaced, every client asks, and so on. With stop first, there is nobody in
    its place when they ask; they may ask again when there is."""
    visitors = await stage.newcomers()
    before = _unevenness(visitors)
    moves, failed = [0] * len(visitors), 0

    async def ask(index: int) -> bool:
        visitor = visitors[index]
        answer = await stage.visit(visitor.browser)
        moves[index] += not answer.failed and answer.endpoint != visitor.home
        visitor.home = answer.endpoint or visitor.home
        return answer.failed

    everybody = range(len(visitors))
    for old in list(stage.targets):
        name = f"e{int(old.id[1:]) + ENDPOINTS}"
        if start_first:
            new = await stage.start_app(name, slot=old.slot)
            await stage.publish([new if each is old else each for each in stage.targets])
            await stage.stop_app(old.id)
        else:
            others = [each for each in stage.targets if each is not old]
            await stage.publish(others, [old])
            await stage.stop_app(old.id)
            asked = [asyncio.create_task(ask(index)) for index in everybody]
            await asyncio.sleep(SETTLE_SECONDS)
            new = await stage.start_app(name, slot=old.slot)
            await stage.publish([*others, new])
            failed += sum(await asyncio.gather(*asked))
        for index in everybody:
            failed += await ask(index)
    per_client = sum(moves) / len(moves)
    return Update(per_client, max(moves), failed, before, _unevenness(visitors))


def _unevenness(visitors: Sequence[Visitor]) -> float:
    homes = Counter(visitor.home for visitor in visitors)
    return max(homes.values()) * ENDPOINTS / len(visitors)


async def flapping(stage: Stage) -> Shares:
    """An endpoint goes and comes again and again: its clients move once, the others never."""
    share = Share()
    visitors = await stage.newcomers()
    seen: list[list[Answer]] = [[] for _ in visitors]
    for _ in range(FLAPS):
        for change in (stage.stop_app, stage.resume_app):
            await change("e1")
            await asyncio.sleep(SETTLE_SECONDS)
            for visitor, answers in zip(visitors, seen, strict=True):
                answers.append(await stage.visit(visitor.browser))
    for visitor, answers in zip(visitors, seen, strict=True):
        homes = [visitor.home, *(answer.endpoint for answer in answers)]
        moves = sum(one != other for one, other in itertools.pairwise(homes))
        failed = any(answer.failed for answer in answers)
        share.count(failed or moves > (1 if visitor.home == "e1" else 0))
    return {"flapping": share}


async def reused_address(stage: Stage) -> Shares:
    """An endpoint is gone, and a new one has its address. It does not have the sessions: their
    clients must be told, by a new cookie, and be steady; the others must not notice."""
    share = Share()
    visitors = await stage.newcomers()
    gone = stage.targets[0]
    await stage.stop_app(gone.id)
    new = await stage.start_app("e6", gone.port)
    await stage.publish([new, *stage.targets[1:]])
    for visitor in visitors:
        answers = [await stage.visit(visitor.browser) for _ in range(3)]
        if visitor.home == gone.id:
            taken_for_it = answers[0].endpoint == new.id and not answers[0].proxy_set_cookie
            share.count(taken_for_it or not _steady(answers))
        else:
            share.count(answers[0].endpoint != visitor.home or not _steady(answers))
    return {"reused": share}


async def two_services(stage: Stage) -> Shares:
    """Two services on one host name, below / and /b/, both sticky by the same cookie name."""
    share = Share()
    for _ in range(stage.clients):
        browser = Browser()
        paths = ("/", "/b/", "/", "/b/", "/")
        answers = [await stage.visit(browser, path) for path in paths]
        share.count(not (_steady(answers[0::2]) and _steady(answers[1::2])))
    return {"two": share}


async def client_address(stage: Stage) -> Shares:
    """Hash of the client's address. What has to move is what a new endpoint gets, or what was on
    a removed one; everything else is needless."""
    browsers = [
        # different in the first three bytes too, all that some proxies look at
        Browser(f"127.{1 + number // 200}.{number % 200}.1")
        for number in range(5 * stage.clients)
    ]
    five = stage.targets
    sixth, *more = [await stage.start_app(f"e{number}") for number in range(6, 11)]
    before = await _homes(stage, browsers)
    await stage.publish([*five, sixth])
    plus = await _homes(stage, browsers)
    await stage.publish(five)
    back = await _homes(stage, browsers)
    await stage.publish(five[1:])
    minus = await _homes(stage, browsers)
    await stage.publish(five)
    again = await _homes(stage, browsers)
    await stage.publish([*five, sixth, *more])
    double = await _homes(stage, browsers)
    names = {target.id for target in five}
    pairs = {
        "ip-plus": [(a, b) for a, b in zip(before, plus, strict=True) if b in names],
        "ip-minus": [(a, b) for a, b in zip(back, minus, strict=True) if a != "e1"],
        "ip-double": [(a, b) for a, b in zip(again, double, strict=True) if b in names],
    }
    moved = {key: sum(a != b for a, b in found) for key, found in pairs.items()}
    return {
        **{key: Share(count, len(browsers)) for key, count in moved.items()},
        "ip-plus-all": _different(before, plus),
        "ip-minus-all": _different(back, minus),
        "ip-double-all": _different(again, double),
    }


async def _homes(stage: Stage, browsers: Sequence[Browser]) -> list[str]:
    return [(await stage.visit(browser)).endpoint or "failed" for browser in browsers]


def _different(one: Sequence[str], other: Sequence[str]) -> Share:
    return Share(sum(a != b for a, b in zip(one, other, strict=True)), len(one))


async def _moved(stage: Stage, visitors: Sequence[Visitor]) -> Share:
    share = Share()
    for visitor in visitors:
        answer = await stage.visit(visitor.browser)
        share.count(answer.failed or answer.endpoint != visitor.home)
    return share


def _steady(answers: Sequence[Answer]) -> bool:
    """All successful, and all from the same endpoint."""
    return len({(answer.status, answer.endpoint) for answer in answers}) == 1 and not (
        answers[0].failed
    )


CASES: tuple[Callable[[Stage], Awaitable[Shares]], ...] = (
    first_requests,
    parallel_first_requests,
    grow,
    shrink,
    death,
    restart,
    rolling_replacement,
    flapping,
    reused_address,
    two_services,
)

UPDATES = {
    "start-first": "new ones are started first",
    "stop-first": "old ones are stopped first",
}

KINDS: dict[Kind, str] = {
    "sessions": "The application sets a cookie of that name: a new one for a session it has not",
    "repeats": "The application sets a cookie of that name, and repeats what it is sent",
    "none": "The application sets no cookie",
}

COLUMNS = {
    "differ": "1st and 2nd request reach different endpoints",
    "lost": "the application's cookie is lost",
    "parallel": "6 parallel first requests: then no steady home, or one without the session",
    "disagree": "a second proxy sends the client elsewhere",
    "restart": "moved by a restart of the proxy",
    "grow": "moved when 5 endpoints became 10",
    "shrink": "moved when another endpoint was removed",
    "death-failed": "an endpoint died: a request failed",
    "death-unstable": "an endpoint died: its clients have no steady home after it",
    "flapping": "an endpoint flapped: moved more than once, or needlessly",
    "rolling": "all endpoints replaced in turn: moved needlessly, not steady, or failed",
    "reused": "a new endpoint at an old address: taken for the old one, or not steady",
    "two": "two services on one host name: they displace each other's session",
}
ADDRESS_COLUMNS = {
    "ip-plus": "an endpoint was added: moved needlessly",
    "ip-plus-all": "an endpoint was added: moved in all (17 must)",
    "ip-minus": "an endpoint was removed: moved needlessly",
    "ip-minus-all": "an endpoint was removed: moved in all (20 must)",
    "ip-double": "the endpoints were doubled: moved needlessly",
    "ip-double-all": "the endpoints were doubled: moved in all (50 must)",
}


# --- the run --------------------------------------------------------------------------------


@dataclass(slots=True)
class Findings:
    """What was found about one proxy."""

    name: str
    how: str
    version: str | None
    cookie: dict[Kind, Shares] = field(default_factory=dict)
    """By cookie, for each kind of application."""
    address: Shares = field(default_factory=dict)
    """By client address."""
    updates: dict[Kind, dict[str, Update]] = field(default_factory=dict)
    """What updates do, by cookie."""


def contenders() -> list[Proxy]:
    """All of them; ours is published to as by the Swarm provider, which knows task ids."""
    return [
        replace(
            proxy,
            files={"tasks.toml": "stickyproxy-tasks.toml"},
            command=lambda python, path, _: [python, "-m", "bench.runner", "tasks", str(path)],
        )
        if proxy.name == OURS
        else proxy
        for proxy in PROXIES
    ]


async def examine(proxy: Proxy, clients: int, only: Sequence[str]) -> Findings:
    """All cases for one proxy."""
    found = Findings(proxy.name, proxy.how, await asyncio.to_thread(installed_version, proxy))
    if found.version is None:
        return found
    for kind in KINDS:
        shares = found.cookie.setdefault(kind, {})
        for case in CASES:
            if not only or case.__name__ in only:
                shares |= await _play(proxy, case, "cookie", kind, clients)
        if not only or update.__name__ in only:
            found.updates[kind] = await _updates(proxy, kind, clients)
    hashes_addresses = "ip_hash" in proxy.policies and proxy.name != "HAProxy prefix"
    if hashes_addresses and (not only or client_address.__name__ in only):
        found.address |= await _play(proxy, client_address, "ip_hash", "none", clients)
    return found


async def _updates(proxy: Proxy, kind: Kind, clients: int) -> dict[str, Update]:
    found: dict[str, Update] = {}
    for order in UPDATES:
        with tempfile.TemporaryDirectory(prefix="stickyproxy-affinity-") as name:
            stage = Stage(proxy, Path(name), policy="cookie", kind=kind, clients=clients)
            async with AsyncExitStack() as stack:
                stack.push_async_callback(stage.close)
                try:
                    await stage.open()
                    found[order] = await update(stage, start_first=order == "start-first")
                except StartError as error:
                    print(f"{proxy.name}, {order}: {error}", file=sys.stderr)
    return found


async def _play(
    proxy: Proxy,
    case: Callable[[Stage], Awaitable[Shares]],
    policy: str,
    kind: Kind,
    clients: int,
) -> Shares:
    with tempfile.TemporaryDirectory(prefix="stickyproxy-affinity-") as name:
        stage = Stage(proxy, Path(name), policy=policy, kind=kind, clients=clients)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(stage.close)
            try:
                await stage.open(two=case is two_services)
                return await case(stage)
            except StartError as error:
                print(f"{proxy.name}, {case.__name__}: {error}", file=sys.stderr)
                return {}


async def run(clients: int, names: Sequence[str], only: Sequence[str]) -> list[Findings]:
    """Every proxy, a few at a time."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(proxy: Proxy) -> Findings:
        async with gate:
            found = await examine(proxy, clients, only)
            print(f"{proxy.name}: done", flush=True)
            return found

    return list(
        await asyncio.gather(*(one(proxy) for proxy in contenders() if proxy.name in names))
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.affinity", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer clients")
    parser.add_argument("--clients", type=int, help="per case (60; quick: 20)")
    names = [proxy.name for proxy in PROXIES]
    parser.add_argument("--proxies", nargs="+", metavar="NAME", choices=names, default=names)
    cases = [case.__name__ for case in (*CASES, client_address, update)]
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=cases, default=[])
    options = parser.parse_args()
    clients = options.clients or (20 if options.quick else 60)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    started = time.monotonic()
    found = asyncio.run(run(clients, options.proxies, options.only))
    about = environment(f"{'QUICK=1 ' if options.quick else ''}make bench-affinity")
    RESULTS.mkdir(exist_ok=True)
    document = {
        "environment": asdict(about),
        "clients": clients,
        "proxies": [asdict(one) for one in found],
    }
    (RESULTS / "affinity.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "affinity.md").write_text(markdown(found, about.lines(), clients))
    minutes = (time.monotonic() - started) / 60
    print(f"Written to bench/results/affinity.md and .json after {minutes:.1f} minutes.")


# --- the report -----------------------------------------------------------------------------


def markdown(found: Sequence[Findings], about: Sequence[str], clients: int) -> str:
    """The whole report."""
    lines = ["# Stickiness", "", *about]
    lines += [
        f"- {one.name}: {one.version or 'absent: not installed'}, {one.how}"
        for one in found
        if one.name != OURS
    ]
    lines += [
        "",
        f"Percent of {clients} clients with cookie jars that got it wrong; **0 is right",
        "everywhere**. Five endpoints, `session` as the sticky cookie in every proxy, retries on,",
        "health checks on where the product has them.",
        "",
    ]
    for kind, title in KINDS.items():
        lines += [f"## {title}", "", *_table(found, COLUMNS, _of_kind(kind)), ""]
    lines += [
        "## Updates",
        "",
        f"All five endpoints are replaced one after the other, and all {clients} clients ask after",
        "each. Moves per client, of which **1.00** is the least; the most that one client moved;",
        "clients of the endpoint with the most, by the mean, before and after: the same is right.",
        "",
    ]
    for kind, title in KINDS.items():
        lines += [f"### {title}", "", *_updates_table(found, kind), ""]
    lines += [
        f"## By the client's address ({5 * clients} clients)",
        "",
        *_table(found, ADDRESS_COLUMNS, lambda one: one.address),
        "",
        *_REASONS,
    ]
    return "\n".join(lines) + "\n"


def _of_kind(kind: Kind) -> Callable[[Findings], Shares]:
    return lambda one: one.cookie.get(kind, {})


def _table(
    found: Sequence[Findings], columns: dict[str, str], shares: Callable[[Findings], Shares]
) -> list[str]:
    """One row for each thing that can go wrong, one column for each proxy."""
    here = [one for one in found if shares(one)]
    if not here:
        return ["Not run."]
    lines = ["| percent | " + " | ".join(one.name for one in here) + " |"]
    lines += ["|---|" + "--:|" * len(here)]
    for key, title in columns.items():
        if any(key in shares(one) for one in here):
            cells = [str(shares(one).get(key, "")) for one in here]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def _updates_table(found: Sequence[Findings], kind: Kind) -> list[str]:
    here = [one for one in found if one.updates.get(kind)]
    if not here:
        return ["Not run."]
    lines = ["| | " + " | ".join(UPDATES.values()) + " |", "|---|" + "---|" * len(UPDATES)]
    for one in here:
        cells = [str(one.updates[kind].get(order, "")) for order in UPDATES]
        lines.append(f"| {one.name} | " + " | ".join(cells) + " |")
    return lines


_REASONS = [
    "## What cannot be 0",
    "",
    "- *6 parallel first requests*: the six themselves reach several endpoints with every proxy,",
    "  as nothing shows that they come from one browser. What can be right is what follows.",
    "- *moved in all*: an endpoint that joins must be given its share of the clients of a hash,",
    "  and one that leaves must give up its own; the figure in parentheses is that share.",
    "- *an endpoint died*: its sessions are gone with it. What can be right is that no request",
    "  fails and that its clients have a steady home again.",
    "",
    "## How it was done",
    "",
    "stickyproxy is told through its registry, as by the Swarm provider, with task ids as",
    "identities. Endpoints from the configuration file have no identity but their address.",
    "Envoy is restarted for a change of endpoints; the others reload, as their users would.",
]


if __name__ == "__main__":
    main()
