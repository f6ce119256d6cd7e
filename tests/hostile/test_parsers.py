"""What parsers must hold: for their seeds, and for what fuzzing found."""

from __future__ import annotations

import pytest

from tests.hostile.parsers import SEEDS, TARGETS, finds


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name](seed)


def test_finds() -> None:
    for name, path in finds():
        TARGETS[name](path.read_bytes())
