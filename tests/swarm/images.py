"""The images of the proxy and of the demo application, made without any registry.

Three things are made, each kept in ``build/swarm`` under a name that tells what it was made from,
so that a second run makes only what changed: a root file system with Python, from the packages of
this Debian release; the wheels that the image installs; the images themselves, as one archive.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import sys
import tarfile
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.swarm.engine import Node, run

CHECKOUT = Path(__file__).parent.parent.parent
CACHE = CHECKOUT / "build" / "swarm"
WHEELS = CACHE / "wheels"
"""One place, not one per content: .dockerignore and the Dockerfile's help name it."""

PROXY_IMAGE = "stickyproxy:latest"
DEMO_IMAGE = "stickyproxy-demo:latest"
_BASE_IMAGE = "stickyproxy-base:latest"

_PACKAGES = "python3-venv,base-files,base-passwd,coreutils,dash"
_BUILD_TOOLS = ("setuptools>=77",)


def prepare(node: Node) -> Path:
    """Make the images on that node's engine, unless an archive of them is there. The archive is
    what ``load`` takes."""
    CACHE.mkdir(parents=True, exist_ok=True)
    base = _base()
    key = _key(base.name, *_content(_image_sources()))
    archive = CACHE / f"images-{key}.tar"
    if not archive.exists():
        _fill_wheels(_python_of(base))
        node.docker("import", base, _BASE_IMAGE)
        _build(node, "demo", DEMO_IMAGE)
        _build(node, "proxy", PROXY_IMAGE)
        _keep(archive, lambda path: node.docker("save", "-o", path, PROXY_IMAGE, DEMO_IMAGE))
        node.docker("image", "rm", _BASE_IMAGE)
    return archive


def load(node: Node, archive: Path) -> None:
    """Give a node's engine the images."""
    if not node.docker("images", "-q", PROXY_IMAGE).strip():
        node.docker("load", "-i", archive)


def _build(node: Node, target: str, tag: str) -> None:
    commit = run(["git", "-C", CHECKOUT, "rev-parse", "--short=8", "HEAD"]).strip()
    flags = f"--no-index --find-links={WHEELS.relative_to(CHECKOUT)}"
    arguments = {"BASE": _BASE_IMAGE, "PIP_FLAGS": flags, "COMMIT": commit}
    node.docker(
        *("build", "--network", "none", "--file", CHECKOUT / "deploy" / "Dockerfile"),
        *("--target", target, "--tag", tag),
        *(part for item in arguments.items() for part in ("--build-arg", "=".join(item))),
        CHECKOUT,
    )


def _image_sources() -> list[Path]:
    """Every file that .dockerignore lets into the build, and those that say how to build."""
    package = [path for path in (CHECKOUT / "stickyproxy").rglob("*") if path.is_file()]
    names = ["pyproject.toml", "constraints.txt", "deploy/Dockerfile", "deploy/healthcheck.py"]
    return [
        *(path for path in package if path.suffix != ".pyc"),
        *(CHECKOUT / name for name in names),
    ]


# --- the base -----------------------------------------------------------------------------------


def _base() -> Path:
    """A root file system with the Python of this Debian release, unpacked and not configured:
    all that a container of this kind needs, in seconds."""
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    archive = CACHE / f"base-{_key(suite, _PACKAGES)}.tar"
    if not archive.exists():
        command = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={_PACKAGES}", suite]
        _keep(archive, lambda path: run([*command, path]))
    return archive


def _python_of(base: Path) -> str:
    """The version of the Python in a root file system, like ``3.11``."""
    with tarfile.open(base) as archive:
        found = (re.fullmatch(r"\./usr/bin/python(3\.\d+)", name) for name in archive.getnames())
        return next(match[1] for match in found if match)


# --- the wheels ---------------------------------------------------------------------------------


def _fill_wheels(version: str) -> None:
    """Fetch what the image installs, for its Python, which need not be this one's version."""
    constraints = CHECKOUT / "constraints.txt"
    sources = [CHECKOUT / "pyproject.toml", constraints]
    key = _key(version, platform.machine(), *_BUILD_TOOLS, *_content(sources))
    if (WHEELS / f".{key}").exists():
        return
    shutil.rmtree(WHEELS, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(WHEELS)]
    only = ["--only-binary=:all:", "--python-version", version, "--implementation", "cp"]
    run([*pip, *only, "-c", constraints, *_requirements(), *_BUILD_TOOLS])
    (WHEELS / f".{key}").touch()


def _requirements() -> list[str]:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    required: list[str] = project["dependencies"]
    return required


# --- keeping ------------------------------------------------------------------------------------


def _keep(path: Path, make: Callable[[Path], object]) -> None:
    """Make a file under another name and rename it, so that half of one is never taken."""
    part = path.with_suffix(f".{os.getpid()}.tar")
    try:
        make(part)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    kind = path.name.partition("-")[0]
    for old in path.parent.glob(f"{kind}-*.tar"):
        if old != path:
            old.unlink()


def _content(paths: Iterable[Path]) -> list[str]:
    """What identifies these files: names and contents."""
    return [
        f"{path.relative_to(CHECKOUT)} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in sorted(paths)
    ]


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
