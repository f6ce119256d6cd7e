"""How soon a proxy is in step: from what the engine says of a task to what the proxy's routing
tables say of its endpoint.

With STICKYPROXY_DEBUG every process of a proxy logs each routing table it takes into use. The
engine stamps these lines, as it stamps the states of tasks and its own events, all by one clock.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.swarm.engine import Node, eventually

USABLE = "usable"


@dataclass(frozen=True)
class Table:
    """A routing table that a process took into use."""

    at: float
    process: str
    """As it names itself in its log; empty for the only or the main one."""
    endpoints: dict[str, str]
    """Address -> state."""


_LINE = re.compile(r"(\S+Z) (.*)")
_BEGIN = re.compile(r"\S+ \S+ DEBUG (?:(worker \d+): )?routing table:$")
_ENDPOINT = re.compile(r"    (\d\S*:\d+)(?: (draining|down))?$")
_OTHER = re.compile(
    r"[^\s:]+$|\(any other host\)$|  /.* -> |    \(no endpoints\)$|\(no services\)$"
)


def tables(log: str) -> list[Table]:
    """The routing tables in a log with the engine's time stamps."""
    found: list[Table] = []
    inside = False
    for line in log.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        stamp, text = match.groups()
        if begin := _BEGIN.match(text):
            found.append(Table(seconds(stamp), begin[1] or "", {}))
            inside = True
        elif inside and (endpoint := _ENDPOINT.match(text)):
            found[-1].endpoints[endpoint[1]] = endpoint[2] or USABLE
        elif not _OTHER.match(text):
            inside = False
    workers = [table for table in found if table.process]
    return workers or found  # the main process forwards only if it has no workers


def seconds(stamp: str) -> float:
    """The engine's time stamps, which have up to nine digits of a second."""
    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")


class Watch:
    """Samples of one kind of change each, in seconds, by title."""

    def __init__(self, node: Node, service: str, proxy: str, port: int) -> None:
        """``proxy``: its container, on ``node``, started with STICKYPROXY_DEBUG."""
        self._node = node
        self._service = service
        self._proxy = proxy
        self._port = port
        self.samples: dict[str, list[float]] = {}

    def change(self, make: Callable[[], object], came: int, left: int) -> None:
        """Make a change by which so many tasks come and so many leave, and wait until the proxy
        has followed."""
        began = time.time()
        before = self._addresses()
        make()
        eventually(
            "the tasks have changed",
            lambda: (
                len(self._addresses().keys() - before.keys()) == came
                and len(before.keys() - self._addresses().keys()) == left
            ),
        )
        now = self._addresses()
        for task in now.keys() - before.keys():
            # A task keeps the time at which it began to run.
            address, ran = now[task]
            self._note("task running -> in rotation", ran, began, address, _is_usable)
        for task in before.keys() - now.keys():
            address, _ = before[task]
            kill, die = eventually("its end is known", lambda task=task: self._end(task, began))  # type: ignore[misc]
            ended = f"task ended ({_SIGNALS.get(kill['Actor']['Attributes']['signal'])})"
            self._note(f"{ended} -> out of the table", _time(die), began, address, _is_gone)
            if ended.endswith("(SIGTERM)"):
                # The engine lets some seconds pass between the two.
                title = "typed -> no new sessions for those that leave"
                stopped = self._note(title, began, began, address, _is_not_usable)
                title = "no new sessions -> SIGTERM"
                self.samples.setdefault(title, []).append(_time(kill) - stopped)

    def _addresses(self) -> dict[str, tuple[str, float]]:
        """Task -> its endpoint and since when it runs, of all that run."""
        return {
            task["ID"]: (
                f"{task['NetworksAttachments'][0]['Addresses'][0].partition('/')[0]}:{self._port}",
                seconds(task["Status"]["Timestamp"]),
            )
            for task in self._node.running(self._service).values()
        }

    def _end(self, task: str, began: float) -> Sequence[dict[str, Any]]:
        """The engine's events that its container was sent a signal, and that it ended."""
        events = self._node.events(began, label=f"com.docker.swarm.task.id={task}")
        kills = [event for event in events if event["Action"] == "kill"]
        deaths = [event for event in events if event["Action"] == "die"]
        return (kills[0], deaths[0]) if kills and deaths else ()

    def _note(
        self,
        title: str,
        at: float,
        began: float,
        address: str,
        is_followed: Callable[[Table, str], bool],
    ) -> float:
        """A sample: from ``at`` until the proxy has followed, which is returned."""
        [followed] = eventually(
            f"{title}: {address}", lambda: self._followed(began, address, is_followed)
        )
        self.samples.setdefault(title, []).append(followed - at)
        return followed

    def _followed(
        self, began: float, address: str, is_followed: Callable[[Table, str], bool]
    ) -> list[float]:
        """When the last of the proxy's processes had followed; empty as long as one has not."""
        log = self._node.shell(f"docker logs --timestamps {self._proxy} 2>&1")
        found = tables(log)
        moments: dict[str, float] = {}
        for table in found:
            if table.at >= began and is_followed(table, address):
                moments.setdefault(table.process, table.at)
        processes = {table.process for table in found}
        return [max(moments.values())] if processes and moments.keys() == processes else []

    def __str__(self) -> str:
        lines = ["how soon the proxy is in step, by all of its processes:"]
        for title in sorted(self.samples):
            samples = sorted(self.samples[title])
            lines.append(
                f"  {title}: median {statistics.median(samples):.3f} s, "
                f"{samples[0]:.3f} to {samples[-1]:.3f} s ({len(samples)} tasks)"
            )
        return "\n".join(lines)


_SIGNALS = {"9": "SIGKILL", "15": "SIGTERM"}


def _time(event: dict[str, Any]) -> float:
    return float(event["timeNano"]) / 1e9


def _is_usable(table: Table, address: str) -> bool:
    return table.endpoints.get(address) == USABLE


def _is_not_usable(table: Table, address: str) -> bool:
    return not _is_usable(table, address)


def _is_gone(table: Table, address: str) -> bool:
    return address not in table.endpoints
