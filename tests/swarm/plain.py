"""``stickyproxy`` as a plain process beside the Swarm, on a machine that is no node of it.

It runs where the clients are, so it reaches an engine from afar or by its socket's file, and
services at the ports that they publish on their nodes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Self

from tests.swarm.engine import Swarm, eventually
from tests.swarm.images import CHECKOUT


class Plain:
    """One process, or one with its workers; a context manager. ``log`` has what it says."""

    def __init__(self, swarm: Swarm, name: str, command: str, config: str, ready: str) -> None:
        """``config``: the text of its configuration; ``ready``: what it logs when it has begun."""
        self._swarm = swarm
        self._name = name
        self._command = command
        self._ready = ready
        self._config = swarm.directory / f"{name}.toml"
        self._config.write_text(config)
        self._output = swarm.directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Plain {self._command} {self._name}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it has begun."""
        begun = self._output.stat().st_size if self._output.exists() else 0
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._swarm.as_client(
                    *("setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "stickyproxy"),
                    *(self._command, "--config", self._config),
                ),
                cwd=CHECKOUT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            eventually(f"{self._name} begins", lambda: self._ready in self.log[begun:], within=30)
        except BaseException as error:
            self.kill()
            error.add_note(self.log[begun:][-3000:])
            raise

    def kill(self) -> None:
        """End it without a warning; its workers end by themselves."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def lives(self) -> bool:
        """Whether the process that was started still runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """All that it has logged, also before it was started again."""
        return self._output.read_text(errors="replace")


def swarm_table(endpoint: str, certificates: Path | None = None, **settings: str) -> str:
    """The part of a configuration that names an engine."""
    if certificates is not None:
        settings |= {
            "tls_ca": str(certificates / "ca.pem"),
            "tls_cert": str(certificates / "client.pem"),
            "tls_key": str(certificates / "client.key"),
        }
    lines = [f'{key} = "{value}"' for key, value in {"endpoint": endpoint, **settings}.items()]
    return "\n".join(["[providers.swarm]", *lines, ""])
