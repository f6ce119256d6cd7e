"""One proxy for all cases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile.stage import Stage, set_up


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The proxy under attack, and whoever attacks it."""
    with set_up(tmp_path_factory.mktemp("hostile")) as made:
        yield made
