"""What this build is: version, commit, platform."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

from stickyproxy import __version__

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@cache
def commit() -> str:
    """Short commit id: from the environment variable STICKYPROXY_COMMIT (images set it), else
    from the git checkout this runs in, else ``unknown``."""
    if named := os.environ.get("STICKYPROXY_COMMIT"):
        return "".join(c for c in named if c.isalnum())[:8] or "unknown"
    checkout = Path(__file__).parent.parent.parent
    git = shutil.which("git")
    if git is None or not (checkout / ".git").exists():
        return "unknown"
    answer = subprocess.run(  # noqa: S603
        [git, "-C", str(checkout), "rev-parse", "--short=8", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or "unknown"


def server_info() -> str:
    """``stickyproxy/<version> (<commit>) <os>/<arch>``, as Interlock reported itself."""
    machine = platform.machine()
    system = platform.system().lower()
    return f"stickyproxy/{__version__} ({commit()}) {system}/{_ARCHITECTURES.get(machine, machine)}"
