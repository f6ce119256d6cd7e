"""Imports go down only. The table below is the building; ARCHITECTURE.md is its tour.

A module may import from the floors below its own, never from its own or from above. What stands
under ``if TYPE_CHECKING:`` is not looked at: names for annotations bind nobody at run time, and
two parts that call each other have to know each other's type. Nor may anybody hide an import in a
function: all that run are read, wherever they stand.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import stickyproxy

PACKAGE = Path(stickyproxy.__file__).parent

FLOORS = (
    # the command line
    ("__main__",),
    ("cli",),
    # composition root: makes the parts and joins them
    ("supervisor",),
    ("app", "demo", "diagnosis", "worker"),
    ("data_plane", "sources"),
    # CONTROL: what decides what is served, and where
    ("admin",),
    ("controller", "health", "registry", "server", "side_server"),
    ("providers.controller", "providers.static", "providers.swarm"),
    ("providers.networks",),
    ("providers.listing",),
    ("providers.labels",),
    ("providers",),
    # DATA PLANE: what every request goes through
    ("access_log", "downstream", "proxy"),
    ("request", "response"),
    ("upgrade", "upstream"),
    # routing and choosing
    ("report", "table"),
    ("balancers",),
    ("balancers.consistent_hash", "balancers.cookie", "balancers.ip_hash", "balancers.round_robin"),
    # the configuration
    ("config",),
    ("channel", "codec", "options"),
    ("settings",),
    # the ground: knows nobody
    ("build_info", "cookies"),
    ("errors", "hashing", "headers", "model", "sockets"),
    ("",),  # stickyproxy itself: the version
)
"""From top to bottom; peers on one floor do not import each other."""

RESERVED = {
    "aiohttp": {
        *("downstream", "proxy", "request"),
        *("admin", "controller", "health", "providers.controller", "server", "side_server"),
        "demo",
    },
    "docker": {"providers.swarm"},
    "httptools": {"upstream"},
    "mmh3": {"hashing"},
    "pydantic": {"codec", "config", "options", "providers.labels"},
    "requests": {"providers.swarm"},  # docker's, whose exceptions come through
    "uvloop": {"cli", "worker"},
}
"""Libraries, and who alone may import them; nothing else from outside may be imported at all."""


def name_of(path: Path) -> str:
    """``balancers.cookie``; of a package's ``__init__.py`` the package's name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
"""Every file of the package by its name without ``stickyproxy.``."""

FLOOR = {module: len(FLOORS) - level for level, floor in enumerate(FLOORS) for module in floor}
"""The higher, the more it may import."""


def run_time_imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """All import statements that are executed."""
    if isinstance(tree, ast.If) and ast.unparse(tree.test) == "TYPE_CHECKING":
        for statement in tree.orelse:
            yield from run_time_imports(statement)
    elif isinstance(tree, ast.Import | ast.ImportFrom):
        yield tree
    else:
        for child in ast.iter_child_nodes(tree):
            yield from run_time_imports(child)


def imported(module: str) -> set[str]:
    """Dotted names of the modules that ``module`` imports when it runs."""
    names: set[str] = set()
    for statement in run_time_imports(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(statement, ast.Import):
            names.update(alias.name for alias in statement.names)
            continue
        assert statement.level == 0, f"{module}: relative import in line {statement.lineno}"
        assert statement.module is not None
        for alias in statement.names:
            # "from package import name": the name is a module of it, or something inside it
            inner = f"{statement.module}.{alias.name}"
            is_module = inner.removeprefix("stickyproxy.") in MODULES
            names.add(inner if is_module else statement.module)
    return names


def own(names: set[str]) -> set[str]:
    """Those of this package, without its name."""
    return {
        name.removeprefix("stickyproxy").removeprefix(".")
        for name in names
        if name.partition(".")[0] == "stickyproxy"
    }


def test_every_module_has_a_floor() -> None:
    housed = [module for floor in FLOORS for module in floor]
    assert len(housed) == len(set(housed)), "a module stands twice in FLOORS"
    missing, gone = set(MODULES) - set(housed), set(housed) - set(MODULES)
    assert not missing, f"give them a floor in {Path(__file__).name}: {sorted(missing)}"
    assert not gone, f"they exist no more: {sorted(gone)}"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    too_high = sorted(
        other for other in own(imported(module)) if FLOOR.get(other, 0) >= FLOOR.get(module, 0)
    )
    assert not too_high, f"{module} may not import from its own floor or above: {too_high}"


@pytest.mark.parametrize("module", MODULES)
def test_libraries_are_kept_where_they_belong(module: str) -> None:
    for name in imported(module):
        library = name.partition(".")[0]
        if library == "stickyproxy" or library in sys.stdlib_module_names:
            continue
        assert library in RESERVED, f"{module} imports {library}, which nobody may"
        assert module in RESERVED[library], f"{module} may not import {library}"
