"""Does a reset show that a request was not carried out? ``python -m bench.unread``

The worst case for that claim: applications that begin before they have read the body, in processes
that are killed in the midst of it. Bodies of several sizes go out in one write with their heads, on
new connections and on kept-alive ones. Counted is, by size, how requests ended that were carried
out without an answer; those that were reset disprove the claim for their size.

Prints a table. Everything listens on 127.0.0.1.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import selectors
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.processes import StartError, free_port
from bench.servers import SERVERS, Server
from bench.stopping import Probe

SIZES = (0, 1_000, 3_500, 8_000, 20_000, 200_000)
PROBES = 8
"""Of each size, half of them on connections that are kept alive."""

Counts = dict[int, Counter[str]]


def examine(server: Server, rounds: int) -> Counts:
    """Raises StartError."""
    counts: Counts = {size: Counter() for size in SIZES}
    with tempfile.TemporaryDirectory(prefix="unread-") as name:
        directory = Path(name)
        server.prepare(directory)
        for _ in range(rounds):
            for size in SIZES:
                _kill(server, directory, size, counts[size])
    return counts


def _kill(server: Server, directory: Path, size: int, counts: Counter[str]) -> None:
    port, ids = free_port(), itertools.count(1)
    (directory / "carried").write_bytes(b"")
    with selectors.DefaultSelector() as selector, server.start(port, directory) as child:

        def pump(seconds: float) -> None:
            until = time.monotonic() + seconds
            while (left := until - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    key.data.readable()

        kept = [Probe(port, ids, selector).send("GET") for _ in range(PROBES // 2)]
        pump(0.3)
        probes = [probe for probe in kept if not probe.ended and probe.outcome is not None]
        probes += [Probe(port, ids, selector) for _ in range(PROBES - len(probes))]
        for probe in probes:
            probe.send(body=b"a" * size)
            pump(random.uniform(0, 0.005))
        pump(random.uniform(0, 0.02))
        os.killpg(child.pid, signal.SIGKILL)
        pump(0.3)
        carried = set((directory / "carried").read_text().split())
        for probe in probes:
            outcome = probe.outcome.value if probe.outcome is not None else "silent"
            counts[outcome + ("!" if probe.path in carried and outcome != "served" else "")] += 1
            probe.give_up()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.unread")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="servers whose names have it")
    parser.add_argument("--at-once", type=int, default=3)
    arguments = parser.parse_args()
    os.environ["EAGER"] = "1"
    chosen = [
        server
        for server in SERVERS
        if not server.missing
        and not server.first_child
        and (not arguments.only or any(text in server.name for text in arguments.only))
    ]
    print("| server | " + " | ".join(f"{size} B" for size in SIZES) + " |")
    print("|---|" + "---|" * len(SIZES))
    with ThreadPoolExecutor(arguments.at_once) as pool:
        futures = [(server, pool.submit(examine, server, arguments.rounds)) for server in chosen]
        for server, future in futures:
            try:
                counts = future.result()
            except StartError as error:
                print(f"{server.name}: {error}", file=sys.stderr)
                continue
            cells = [", ".join(f"{n} {o}" for o, n in c.most_common()) for c in counts.values()]
            print(f"| {server.name} | " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
