"""The servers of the stopping lab, each with the same tiny application, and how to start them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.processes import Child, all_stats, tree

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
JARS = Path("/usr/share/java")
NODE_MODULES = (Path("/usr/share/nodejs"), Path("/usr/lib/node_modules"))


@dataclass(frozen=True, slots=True)
class Server:
    """One contender. ``command`` gets port and a directory of its own, in which ``prepare`` has
    been before the first start."""

    name: str
    command: Callable[[int, Path], list[str]]
    needs: tuple[str, ...]
    """Programs without which it is skipped."""
    prepare: Callable[[Path], None] = lambda directory: None
    signal: str = "SIGTERM"
    """What its image asks Docker to stop it with."""
    first_child: bool = False
    """True if the signal is for the command's child: what would be process 1 of a container."""
    files: tuple[Path, ...] = ()
    """Files without which it is skipped."""
    only_if: Callable[[], bool] = lambda: True
    """Whether what else it needs is there."""

    @property
    def missing(self) -> str:
        """What is not installed; empty if it can be started."""
        programs = [name for name in self.needs if program(name) is None]
        files = [str(path) for path in self.files if not path.exists()]
        if not programs and not self.only_if():
            return "library"
        return " ".join([*programs, *files])

    def receiver(self, child: Child) -> int:
        """The process that the signal to stop is for."""
        return tree(child.pid, all_stats())[1].pid if self.first_child else child.pid

    def start(self, port: int, directory: Path, *, delay: float | None = None) -> Child:
        """Start one replica; ``delay``: under ``stop-later.sh``. Raises StartError."""
        command = self.command(port, directory)
        if delay is not None:
            command = [str(HERE / "stop-later.sh"), *command]
        environment = {
            "PORT": str(port),
            "CARRIED": str(directory / "carried"),
            "DIRECTORY": str(directory),
            "DELAY": str(delay or 0),
            "PYTHONPATH": str(REPOSITORY),
            "NODE_PATH": os.pathsep.join(
                [os.environ.get("NODE_PATH", ""), *map(str, NODE_MODULES)]
            ),
        }
        child = Child(command, directory / "log", environment=environment)
        try:
            child.wait_for(port)
        except Exception:
            child.stop()
            raise
        return child


def node_directories() -> list[Path]:
    """Where Node looks for libraries."""
    given = os.environ.get("NODE_PATH", "").split(os.pathsep)
    return [*(Path(directory) for directory in given if directory), *NODE_MODULES]


def program(name: str) -> str | None:
    """Where a program is: beside this interpreter, or on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])
    return shutil.which(name, path=path)


def run(name: str, *arguments: str) -> list[str]:
    """The command line of an installed program."""
    return [program(name) or name, *arguments]


def _gunicorn(*arguments: str) -> Callable[[int, Path], list[str]]:
    return lambda port, _: run(
        "gunicorn",
        *("-b", f"127.0.0.1:{port}", "--no-control-socket", *arguments),
        "bench.servers.wsgi_app:app",
    )


DEBIAN_GUNICORN = "/usr/bin/gunicorn"


def _debian_gunicorn(*arguments: str) -> Callable[[int, Path], list[str]]:
    """An older one: how it closes connections has changed since."""
    return lambda port, _: [
        DEBIAN_GUNICORN,
        *("-b", f"127.0.0.1:{port}", *arguments, "bench.servers.wsgi_app:app"),
    ]


def _uvicorn(*arguments: str) -> Callable[[int, Path], list[str]]:
    return lambda port, _: run(
        "uvicorn", "--port", str(port), "--no-access-log", *arguments, "bench.servers.asgi_app:app"
    )


def _hypercorn(port: int, _: Path) -> list[str]:
    return run("hypercorn", "-b", f"127.0.0.1:{port}", "bench.servers.asgi_app:app")


def _waitress(port: int, _: Path) -> list[str]:
    return run(
        "waitress-serve", f"--listen=127.0.0.1:{port}", "--threads=8", "bench.servers.wsgi_app:app"
    )


def _puma(*arguments: str) -> Callable[[int, Path], list[str]]:
    return lambda port, _: run(
        "puma", "-b", f"tcp://127.0.0.1:{port}", *arguments, str(HERE / "config.ru")
    )


def _node(kind: str, drain: str) -> Callable[[int, Path], list[str]]:
    return lambda _, __: run("node", str(HERE / "server.js"), kind, drain)


def _express_is_there() -> bool:
    return any((directory / "express").exists() for directory in node_directories())


def _as_process_1(command: list[str]) -> list[str]:
    return ["unshare", "--pid", "--fork", "--kill-child", *command]


def _build_go(directory: Path) -> None:
    subprocess.run(
        run("go", "build", "-o", str(directory / "server"), str(HERE / "server.go")), check=True
    )


def _go(drain: str) -> Callable[[int, Path], list[str]]:
    return lambda _, directory: [str(directory / "server"), drain]


def _jars() -> str:
    jars = [*sorted(JARS.glob("tomcat10-*.jar")), *sorted(JARS.glob("*servlet-api*.jar"))]
    return os.pathsep.join(map(str, jars))


def _build_java(directory: Path) -> None:
    subprocess.run(
        run("javac", "-nowarn", "-cp", _jars(), "-d", str(directory), str(HERE / "Server.java")),
        check=True,
        stderr=subprocess.DEVNULL,
    )


def _tomcat(how: str) -> Callable[[int, Path], list[str]]:
    return lambda _, directory: run(
        "java", "-cp", f"{directory}{os.pathsep}{_jars()}", "Server", how
    )


def _nginx(port: int, directory: Path) -> list[str]:
    configuration = directory / f"nginx-{port}.conf"
    text = (HERE / "nginx.conf").read_text()
    for name, value in (("PORT", str(port)), ("DIRECTORY", str(directory))):
        text = text.replace("{{" + name + "}}", value)
    configuration.write_text(text)
    return run("nginx", "-c", str(configuration), "-e", str(directory / "log"))


TOMCAT = JARS / "tomcat10-embed-core.jar"

SERVERS = (
    Server("gunicorn sync", _gunicorn("-w", "4"), ("gunicorn",)),
    Server(
        "gunicorn gthread",
        _gunicorn("-w", "2", "-k", "gthread", "--threads", "8", "--keep-alive", "5"),
        ("gunicorn",),
    ),
    Server("gunicorn sync, Debian's", _debian_gunicorn("-w", "4"), (DEBIAN_GUNICORN,)),
    Server(
        "gunicorn gthread, Debian's",
        _debian_gunicorn("-w", "2", "-k", "gthread", "--threads", "8", "--keep-alive", "5"),
        (DEBIAN_GUNICORN,),
    ),
    Server("uvicorn", _uvicorn(), ("uvicorn",)),
    Server("uvicorn, 2 workers", _uvicorn("--workers", "2"), ("uvicorn",)),
    Server("hypercorn", _hypercorn, ("hypercorn",)),
    Server("waitress", _waitress, ("waitress-serve",)),
    Server("Puma", _puma("-t", "8:8"), ("puma",)),
    Server("Puma, 2 workers", _puma("-t", "8:8", "-w", "2"), ("puma",)),
    Server("Node http, no handler", _node("http", "none"), ("node",)),
    Server(
        "Node http, no handler, process 1",
        lambda port, directory: _as_process_1(_node("http", "none")(port, directory)),
        ("node", "unshare"),
        first_child=True,
    ),
    Server("Node http, server.close", _node("http", "close"), ("node",)),
    Server(
        "Express, server.close", _node("express", "close"), ("node",), only_if=_express_is_there
    ),
    Server("Go, no handler", _go("none"), ("go",), prepare=_build_go),
    Server("Go, Shutdown", _go("shutdown"), ("go",), prepare=_build_go),
    Server(
        "Tomcat, stop", _tomcat("stop"), ("java", "javac"), prepare=_build_java, files=(TOMCAT,)
    ),
    Server(
        "Tomcat, graceful",
        _tomcat("graceful"),
        ("java", "javac"),
        prepare=_build_java,
        files=(TOMCAT,),
    ),
    Server("nginx", _nginx, ("nginx",)),
    Server("nginx, SIGQUIT", _nginx, ("nginx",), signal="SIGQUIT"),
)
