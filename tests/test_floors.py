"""Imports go down only. The table below is the building; ARCHITECTURE.md is its tour.

A package may import from those the table names for it, and within a package modules import each
other in no circle. What stands under ``if TYPE_CHECKING:`` or in a function counts like any other
import: who needs the other's type cannot be understood without it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import stickyproxy

PACKAGE = Path(stickyproxy.__file__).parent

GROUND = {"", "base", "model"}
"""What all may import: the version, what knows nobody, and the frozen data."""

MAY_IMPORT = {
    "__main__": {"cli", "connector", "custodian", "handover"},
    "cli": {
        *("runtime", "admin", "control", "providers"),
        *("dataplane", "connector", "custodian", "handover", "routing"),
        *("semantics", "config", "demo"),
    },
    "runtime": {
        *("admin", "control", "providers"),
        *("dataplane", "connector", "handover", "routing", "semantics", "config"),
    },
    "admin": {"control"},
    "providers": {"config", "connector", "custodian"},
    "control": {"routing", "config"},
    "dataplane": {"connector", "routing", "semantics"},
    "connector": set(),
    "custodian": set(),
    "config": {"routing"},
    "routing": {"semantics"},
    "handover": set(),
    "semantics": set(),
    "demo": set(),
    "model": set(),
    "base": set(),
    "": set(),  # stickyproxy itself: the version
}
"""From top to bottom: what a package may import besides the ground and itself."""

RESERVED = {
    "aiohttp": {
        *("dataplane.downstream.context", "dataplane.downstream.heads"),
        *("dataplane.downstream.http1", "dataplane.downstream.server"),
        "dataplane.downstream.stream",
        *("admin.answers", "admin.api", "admin.application"),
        "admin.fleet",
        "admin.live",
        *("admin.events", "admin.pages", "admin.questions", "admin.upkeep"),
        *("control.controller", "control.server", "providers.controller"),
        "demo.app",
    },
    "acme": {"providers.acme.authority"},
    "backports": {"dataplane.compression"},
    "brotli": {"dataplane.compression"},
    "cryptography": {
        *("base.token_tls", "config.certificates"),
        *("providers.acme.authority", "providers.acme.keys"),
        "providers.acme.vault",
    },
    "docker": {"providers.engine.client", "providers.docker.engine", "providers.swarm.engine"},
    "josepy": {"providers.acme.authority"},
    "mmh3": {"base.hashing"},
    "opentelemetry": {"dataplane.spans"},
    "prometheus_client": {"admin.metrics"},
    "pydantic": {
        *("config.codec", "config.load", "config.options", "config.tables", "config.values"),
        "providers.engine.labels",
    },
    # docker's, and acme's, whose exceptions come through
    "requests": {"providers.acme.authority", "providers.engine.client"},
    "rich": {"cli.screen", "cli.tables", "cli.top"},
    "uvloop": {"cli.common", "runtime.worker"},
}
"""Libraries, and who alone may import them; nothing else from outside may be imported at all."""


def name_of(path: Path) -> str:
    """``routing.table``; of a package's ``__init__.py`` the package's name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
"""Every file of the package by its name without ``stickyproxy.``."""


def package_of(module: str) -> str:
    """The first part of its name."""
    return module.partition(".")[0]


def imported(module: str) -> set[str]:
    """Dotted names of the modules that ``module`` imports, wherever the statement stands."""
    names: set[str] = set()
    for statement in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(statement, ast.Import):
            names.update(alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, f"{module}: relative import in line {statement.lineno}"
            assert statement.module is not None
            for alias in statement.names:
                # "from package import name": the name is a module of it, or something inside it
                inner = f"{statement.module}.{alias.name}"
                is_module = inner.removeprefix("stickyproxy.") in MODULES
                names.add(inner if is_module else statement.module)
    return names


def classes(module: str) -> Iterator[str]:
    """The names of its classes, without the underscore of private ones."""
    for statement in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(statement, ast.ClassDef):
            yield statement.name.lstrip("_")


def own(names: set[str]) -> Iterator[str]:
    """Those of this package, without its name."""
    for name in names:
        if package_of(name) == "stickyproxy":
            yield name.removeprefix("stickyproxy").removeprefix(".")


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """A circle in the graph; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_every_package_has_its_place() -> None:
    there = {package_of(module) for module in MODULES}
    assert there - set(MAY_IMPORT) == set(), f"say in {Path(__file__).name} what they may import"
    assert set(MAY_IMPORT) - there == set(), "they exist no more"


def test_the_table_goes_down_only() -> None:
    floors = list(MAY_IMPORT)
    for level, (package, allowed) in enumerate(MAY_IMPORT.items()):
        assert allowed <= set(floors[level + 1 :]), f"{package} would import from above"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    package = package_of(module)
    allowed = MAY_IMPORT[package] | {package}
    # The ground has floors too: the version, base on it, model on both.
    allowed |= {"": set(), "base": {""}, "model": {"", "base"}}.get(package, GROUND)
    too_high = sorted(other for other in own(imported(module)) if package_of(other) not in allowed)
    assert not too_high, f"{package} may not import: {too_high} (in {module})"


def test_no_circle() -> None:
    assert circle({module: {*own(imported(module))} for module in MODULES}) == []


def test_a_circle_is_found() -> None:
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}


def test_no_two_classes_of_one_name() -> None:
    where: dict[str, list[str]] = {}
    for module in MODULES:
        for name in classes(module):
            where.setdefault(name, []).append(module)
    twice = {name: places for name, places in where.items() if len(places) > 1}
    assert not twice, twice


@pytest.mark.parametrize("module", MODULES)
def test_libraries_are_kept_where_they_belong(module: str) -> None:
    for name in imported(module):
        library = name.partition(".")[0]
        if library == "stickyproxy" or library in sys.stdlib_module_names:
            continue
        assert library in RESERVED, f"{module} imports {library}, which nobody may"
        assert module in RESERVED[library], f"{module} may not import {library}"
