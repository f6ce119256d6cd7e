"""``make swarm``: the whole thing on the local Docker engine, or, where none answers, on one that
is started for it and lives until its shell is left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from tests.swarm import images
from tests.swarm.engine import Swarm, why_not

_UP = images.CHECKOUT / "deploy" / "up.sh"


def main() -> int:
    """Exit status: 0 if it came up."""
    if _local_engine_answers():
        return subprocess.run([_UP], check=False).returncode
    print("No local Docker engine answers: starting one for as long as this runs.")
    if reason := why_not():
        print(f"That cannot be done here: {reason}.", file=sys.stderr)
        return 1
    with Swarm() as swarm:
        images.load(swarm.manager, images.prepare(swarm.manager))
        return _up(swarm)


def _local_engine_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


def _up(swarm: Swarm) -> int:
    enter = ["nsenter", f"--net=/run/netns/{swarm.manager.netns}"]
    environ = {**os.environ, **swarm.manager.environ, "NO_BUILD": "1"}
    status = subprocess.run([*enter, _UP], env=environ, check=False).returncode
    if status == 0:
        print("\nThe engine has a network of its own, so type this in the shell that follows.")
        print("Leaving the shell (exit, Ctrl-D) removes the engine and all that is on it.")
        sys.stdout.flush()
        environ["PS1"] = f"{swarm.manager.name}# "
        home = swarm.manager.directory  # what is typed there may leave files
        subprocess.run([*enter, "bash", "--norc", "-i"], env=environ, cwd=home, check=False)
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
