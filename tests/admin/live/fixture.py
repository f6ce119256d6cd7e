"""An admin listener that says what a test tells it to: the page's own files, and an API of canned
documents. By itself: ``python -m tests.admin.live.fixture [SERVICES [PORT]]``."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from stickyproxy.admin import live

Json = dict[str, Any]


def endpoint(number: int = 1, **fields: Any) -> Json:
    """One as the API has it."""
    row: Json = {
        "id": f"id{number}",
        "number": number,
        "address": f"10.0.0.{number}:8000",
        "node": "",
        "state": "usable",
        "why": "",
        "admin_state": "ready",
        "figures": {
            "requests_per_second": 10.0 * number,
            "errors_per_second": 0.0,
            "in_flight": number,
            "sessions": 20 * number,
        },
    }
    return row | fields


def service(name: str = "demo", *endpoints: Json, **fields: Any) -> Json:
    """One as the API has it."""
    rows = list(endpoints) or [endpoint(1), endpoint(2), endpoint(3)]
    row: Json = {
        "name": name,
        "hosts": [f"{name}.local"],
        "context_root": "/",
        "policy": "cookie session, else round robin",
        "state": "published",
        "problems": [],
        "figures": {
            "requests_per_second": 60.0,
            "errors_per_second": 0.0,
            "in_flight": 6,
            "p50": 0.0021,
            "p99": 0.0187,
            "sessions": 120,
            "affinity": {"pinned": 55.0, "new": 5.0},
            "bytes_in_per_second": 12_000.0,
            "bytes_out_per_second": 480_000.0,
        },
        "endpoints": rows,
    }
    return row | fields


def problem(name: str = "demo", **fields: Any) -> Json:
    """One as the API has it."""
    row: Json = {
        "service": name,
        "label": "port",
        "value": "eighty",
        "reason": "is not a port: write a number from 1 to 65535",
        "remedy": f"docker service update --label-add com.docker.lb.port=80 {name}",
        "fatal": True,
    }
    return row | fields


class Fixture:
    """The listener. Set what it is to say; look at what it was asked."""

    def __init__(self, services: list[Json] | None = None) -> None:
        self.services = [service()] if services is None else services
        self.problems: list[Json] = []
        self.read_token = self.change_token = self.refusal = ""
        self.orders: list[tuple[str, str]] = []
        self.looks = 0
        self.on_look: Callable[[], None] = lambda: None
        self.port = 0
        self._number = 0
        self._news = asyncio.Event()
        self._streams: set[asyncio.Queue[bytes]] = set()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Of the page."""
        return f"http://127.0.0.1:{self.port}/"

    async def start(self) -> None:
        """Listen, on the same port as the last time."""
        app = web.Application()
        live.add_routes(app)
        app.router.add_get("/v1/services", self._services)
        app.router.add_get("/v1/status", self._status)
        app.router.add_get("/v1/problems", self._problems)
        app.router.add_get("/v1/events", self._events)
        app.router.add_post("/v1/admin_state", self._order)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the listener and its connections."""
        for stream in self._streams:
            stream.put_nowait(b"")
        if self._runner is not None:
            await self._runner.cleanup()

    def tell(self, text: str, event: str = "endpoint-joined", **fields: Any) -> None:
        """An event for all streams."""
        self._number += 1
        data = {"id": self._number, "time": time.time(), "event": event, "text": text} | fields
        block = f"id: {self._number}\nevent: {event}\ndata: {json.dumps(data)}\n\n"
        for stream in self._streams:
            stream.put_nowait(block.encode())

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it holds. Raises TimeoutError if that takes far too long."""
        async with asyncio.timeout(30):
            while not condition():
                self._news.clear()
                await self._news.wait()

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._streams)

    def _refusal(self, request: web.Request, *tokens: str) -> web.Response | None:
        shown = request.headers.get("Authorization", "")
        if not tokens[0] or shown in [f"Bearer {token}" for token in tokens if token]:
            return None
        return web.json_response({"error": "the token is missing or wrong"}, status=401)

    async def _services(self, request: web.Request) -> web.Response:
        if refused := self._refusal(request, self.read_token, self.change_token):
            return refused
        self.looks += 1
        self.on_look()
        self._news.set()
        return web.json_response({"services": self.services})

    async def _status(self, request: web.Request) -> web.Response:
        if refused := self._refusal(request, self.read_token, self.change_token):
            return refused
        workers = {"wanted": 4, "accepting": 4, "lost": 0}
        return web.json_response(
            {"version": "9.9", "uptime": 7300.0, "workers": workers, "providers": []}
        )

    async def _problems(self, request: web.Request) -> web.Response:
        if refused := self._refusal(request, self.read_token, self.change_token):
            return refused
        return web.json_response({"problems": self.problems})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if refused := self._refusal(request, self.read_token, self.change_token):
            return refused
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._streams.add(queue)
        self._news.set()
        try:
            while block := await queue.get():
                await response.write(block)
        finally:
            self._streams.discard(queue)
            self._news.set()
        return response

    async def _order(self, request: web.Request) -> web.Response:
        if refused := self._refusal(request, self.change_token):
            return refused
        if self.refusal:
            return web.json_response({"error": self.refusal}, status=409)
        asked = await request.json()
        target, state = asked["target"], asked["admin_state"]
        self.orders.append((target, state))
        found = []
        for row in self.services:
            for each in row["endpoints"]:
                if target in (row["name"], f"{row['name']}/{each['id']}"):
                    each["admin_state"] = state
                    states = {"ready": "usable", "drain": "draining"}
                    each["state"] = states.get(state, state)
                    found.append({"service": row["name"], "admin_state": state})
        return web.json_response({"target": target, "notes": [], "endpoints": found})


def many(count: int, each: int = 6) -> list[Json]:
    """So many services, with so many endpoints each."""
    found = []
    for number in range(1, count + 1):
        subnet = f"10.{number // 250}.{number % 250}"
        rows = [
            endpoint(at, address=f"{subnet}.{at}:80", id=f"e{number}-{at}")
            for at in range(1, each + 1)
        ]
        found.append(service(f"service-{number}", *rows))
    return found


def stir(services: list[Json]) -> None:
    """Let every figure change."""
    for row in services:
        total = 0
        for each in row["endpoints"]:
            figures = each["figures"]
            figures["sessions"] = max(0, figures["sessions"] + random.randint(-3, 4))
            figures["requests_per_second"] = round(
                figures["sessions"] * random.uniform(0.3, 0.5), 1
            )
            figures["in_flight"] = random.randint(0, 9)
            total += figures["sessions"]
        figures = row["figures"]
        rate = figures["requests_per_second"] = round(total * random.uniform(0.35, 0.45), 1)
        figures["sessions"] = total
        figures["p50"] = random.uniform(0.002, 0.003)
        figures["p99"] = random.uniform(0.012, 0.03)
        figures["in_flight"] = sum(each["figures"]["in_flight"] for each in row["endpoints"])
        figures["affinity"] = {
            "pinned": rate * 0.9,
            "new": rate * 0.07,
            "repinned-down": rate * 0.03,
        }


def _shop() -> list[Json]:
    """A few, as they might be."""
    names = ("shop", "basket", "accounts", "api", "search", "media", "chat")
    rows = many(len(names), 5)
    for row, name in zip(rows, names, strict=True):
        row["name"], row["hosts"] = name, [f"{name}.example", f"*.{name}.example"]
        for each in row["endpoints"]:
            each["node"] = f"node-{each['number'] % 3 + 1}"
    rows[0]["endpoints"][1] |= {"state": "down", "why": "check of /health: status 503"}
    rows[2]["endpoints"][0] |= {"state": "draining", "admin_state": "drain"}
    rows[3]["endpoints"][4] |= {"state": "maintenance", "admin_state": "maintenance"}
    rows[4]["problems"] = [problem("search")]
    rows[4]["state"] = "published by its last good labels"
    return rows


async def _main(count: int, port: int) -> None:
    fixture = Fixture(many(count) if count else _shop())
    fixture.port = port
    fixture.problems = [problem("search"), problem("media", fatal=False, remedy="")]
    fixture.on_look = lambda: stir(fixture.services)
    await fixture.start()
    print(fixture.url, flush=True)
    while True:
        await asyncio.sleep(3)
        fixture.tell(
            "shop/2 (10.0.1.2:80) is down: check of /health: status 503", "endpoint-ejected"
        )
        fixture.tell("shop/2 (10.0.1.2:80) is back", "endpoint-back")


if __name__ == "__main__":
    _count, _port = (int(each) for each in (*sys.argv[1:], "0", "0")[:2])
    asyncio.run(_main(_count, _port))
