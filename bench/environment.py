"""Where and with what a lab ran: part of every result."""

from __future__ import annotations

import os
import platform
import resource
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from stickyproxy import __version__


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine, the interpreter and the command."""

    command: str
    cpu: str
    cores: int
    kernel: str
    python: str
    stickyproxy: str

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"- Machine: {self.cpu}, {self.cores} cores, Linux {self.kernel}",
            f"- stickyproxy {self.stickyproxy} on {self.python}",
            f"- Command: `{self.command}`",
        ]


def environment(command: str) -> Environment:
    """Of this process, which runs stickyproxy with its own interpreter."""
    return Environment(
        command=command,
        cpu=_cpu_model(),
        cores=os.cpu_count() or 1,
        kernel=platform.release(),
        python=f"CPython {platform.python_version()} ({_build()})",
        stickyproxy=__version__,
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _build() -> str:
    """Profile-guided or not, as far as the interpreter knows. Debian's is built so by a rule of
    the package and not by an option that would be recorded."""
    options = str(sysconfig.get_config_var("CONFIG_ARGS"))
    if "--enable-optimizations" in options:
        return "profile-guided build"
    if sys.base_prefix == "/usr":
        return "the distribution's build"
    return "built without profile-guided optimization"


def raise_file_limit() -> int:
    """Open as many files as allowed, for thousands of connections; returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
