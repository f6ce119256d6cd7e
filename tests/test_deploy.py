"""deploy/: what its scripts tell people to type."""

from __future__ import annotations

from pathlib import Path

UP = Path(__file__).parent.parent / "deploy" / "up.sh"


def test_up_suggests_only_what_is_there() -> None:
    """``stickyproxy`` is in the containers, and not where the script runs."""
    text = UP.read_text().partition("cat <<TEXT\n")[2].partition("\nTEXT\n")[0]
    commands = [line.split()[0] for line in text.splitlines() if line.startswith("  ")]
    assert len(commands) >= 5
    assert set(commands) <= {"curl", "docker", "for"}
