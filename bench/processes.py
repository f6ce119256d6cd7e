"""Child processes: started pinned to a core, measured with all their children, always ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 15.0
STOP_SECONDS = 5.0
_TICK = os.sysconf("SC_CLK_TCK")


class StartError(Exception):
    """A process ended, or did not listen in time; the message has what it said."""


class Child:
    """A process of the lab and whatever it starts; a context manager."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        core: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        pinned = [] if core is None else ["taskset", "-c", str(core)]
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*pinned, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # one group, so that its children end with it
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process itself has not ended yet."""
        return self._process.poll() is None

    def wait(self, seconds: float) -> bool:
        """Whether the process itself ends within that time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return not self.running

    def wait_for(self, port: int) -> None:
        """Return when a process listens on the port. Raises StartError."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.02)
        said = self._log.read_text("utf-8", "replace")[-800:]
        raise StartError(f"{self._process.args!r} does not listen on {port}: {said}")

    def stop(self) -> None:
        """End the whole group, by force if it takes too long."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
                break
        with contextlib.suppress(ProcessLookupError):  # a worker that outlived its master
            os.killpg(self.pid, signal.SIGKILL)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# --- what a process tree used ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stat:
    """What the lab needs of one ``/proc/PID/stat``."""

    pid: int
    parent: int
    ticks: int
    """User and system time, with that of children that have ended."""


def parse_stat(line: str) -> Stat:
    """Read ``/proc/PID/stat``. The name in parentheses may hold blanks and parentheses."""
    pid, _, rest = line.partition(" (")
    fields = rest.rpartition(") ")[2].split()
    return Stat(int(pid), int(fields[1]), sum(int(ticks) for ticks in fields[11:15]))


def all_stats() -> list[Stat]:
    """Of all processes."""
    stats = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                stats.append(parse_stat((directory / "stat").read_text()))
    return stats


def tree(root: int, stats: Sequence[Stat]) -> list[Stat]:
    """A process with all its descendants."""
    found = [stat for stat in stats if stat.pid == root]
    for ancestor in found:  # grows while it is walked
        found += [stat for stat in stats if stat.parent == ancestor.pid]
    return found


def cpu_seconds(root: int) -> float:
    """User and system time of a process tree since it started."""
    return sum(stat.ticks for stat in tree(root, all_stats())) / _TICK


def descriptors(root: int) -> int:
    """Open descriptors of a process tree."""
    total = 0
    for stat in tree(root, all_stats()):
        with contextlib.suppress(OSError):
            total += len(os.listdir(f"/proc/{stat.pid}/fd"))
    return total


def memory_kib(root: int, field: str = "VmHWM") -> int:
    """Resident memory of a process tree: at its peak (VmHWM), or now (VmRSS)."""
    total = 0
    for stat in tree(root, all_stats()):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{stat.pid}/status").read_text().splitlines():
                if line.startswith(f"{field}:"):
                    total += int(line.split()[1])
    return total
