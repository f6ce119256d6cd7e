"""What fuzzing found, and a few mutations more: always the same ones."""

from __future__ import annotations

import pytest

from tests.hostile.fuzz import Shot, kept, shot
from tests.hostile.stage import Stage

MUTATIONS = 600


@pytest.mark.parametrize("find", [pytest.param(find, id=path.stem) for path, find in kept()])
def test_find(stage: Stage, find: Shot) -> None:
    find.play(stage)


@pytest.mark.parametrize("of_ten", range(10))
def test_mutations(stage: Stage, of_ten: int) -> None:
    for number in range(of_ten, MUTATIONS, 10):
        shot(1, number).play(stage)


def test_a_find_is_kept_as_it_is() -> None:
    for number in range(50):
        made = shot(1, number)
        assert Shot.load(made.dump()) == made
