"""What a connection costs that a connector makes, and one's own: ``python -m bench.connects``.

    width    connects under way at a time
    1/s      connects per second, on one core shared with the endpoint
    proxy    us of CPU per connect in the process that asks, with what its event loop does for it
    other    us of CPU per connect in the connector

And what memory the connector takes: resident, and of that its own (the rest is the interpreter's
files, which all connectors on a node share).
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from bench.processes import cpu_seconds
from stickyproxy.connector.client import Connectors

CONNECTS = 20_000
WIDTHS = (1, 16)
ROUNDS = 3
NETWORK = "bench"

ENDPOINT = """
import socket
listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
print(listener.getsockname()[1], flush=True)
while True:
    listener.accept()[0].close()
"""


async def measure(directory: str, port: int, connector: int) -> None:
    """Print a table; ``connector`` is the process that listens in the directory."""
    loop = asyncio.get_running_loop()
    connectors = Connectors(directory)

    async def direct() -> None:
        transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
        transport.abort()

    async def through() -> None:
        sock = await connectors.connect(NETWORK, "127.0.0.1", port, 5.0)
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=sock)
        transport.abort()

    print(f"{'':<10} {'width':>6} {'1/s':>8} {'proxy':>8} {'other':>8}")
    await through()
    for width in WIDTHS:
        for _ in range(ROUNDS):
            for name, connect in (("direct", direct), ("connector", through)):
                own, others, began = time.process_time(), cpu_seconds(connector), time.monotonic()
                await _many(connect, width)
                seconds = time.monotonic() - began
                own, others = time.process_time() - own, cpu_seconds(connector) - others
                print(
                    f"{name:<10} {width:>6} {CONNECTS / seconds:>8.0f} "
                    f"{1e6 * own / CONNECTS:>8.1f} {1e6 * others / CONNECTS:>8.1f}",
                    flush=True,
                )
    connectors.close()


async def _many(connect: Callable[[], Awaitable[None]], width: int) -> None:
    async def lane() -> None:
        for _ in range(CONNECTS // width):
            await connect()

    await asyncio.gather(*(lane() for _ in range(width)))


def memory(pid: int) -> str:
    """What a process takes, in MB."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    kib = {words[0]: int(words[1]) for words in lines if words[0] in ("VmRSS:", "RssAnon:")}
    return f"{kib['VmRSS:'] / 1024:.1f} MB resident, {kib['RssAnon:'] / 1024:.1f} of its own"


def main() -> None:
    endpoint = subprocess.Popen([sys.executable, "-c", ENDPOINT], stdout=subprocess.PIPE, text=True)
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "stickyproxy", "connector"]
        options = ["--network", NETWORK, "--directory", directory, "--grace", "0"]
        connector = subprocess.Popen([*command, *options])
        try:
            assert endpoint.stdout is not None
            port = int(endpoint.stdout.readline())
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(measure(directory, port, connector.pid))
            print(f"the connector takes {memory(connector.pid)}")
        finally:
            for process in (connector, endpoint):
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
