"""stickyproxy/custodian, run as the engine runs it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stickyproxy.custodian.program import contents, lines

COMMAND = [sys.executable, "-m", "stickyproxy", "custodian"]


def test_it_waits_for_sigterm() -> None:
    with subprocess.Popen(COMMAND) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_what_is_printed_is_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "id1").write_bytes(b"-----BEGIN\n\x00\xff")
    (tmp_path / "id2").write_bytes(b"")
    printed = "".join(
        lines(["id1", "id2", "none", "../secret", str(tmp_path / "id1")], str(tmp_path))
    )
    assert contents(printed) == {"id1": b"-----BEGIN\n\x00\xff", "id2": b""}


def test_without_secrets_nothing_is_printed() -> None:
    done = subprocess.run([*COMMAND, "--show", "no-such-secret"], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.mark.parametrize(("option", "status"), [("--help", 0), ("--hold", 2)])
def test_usage(option: str, status: int) -> None:
    done = subprocess.run([*COMMAND, option], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert "usage: stickyproxy custodian [--show NAME...]" in done.stderr


def test_what_breaks_off_is_left_out() -> None:
    assert contents("id1 YQ==\nid2 Yg=") == {"id1": b"a"}
    assert contents("OCI runtime exec failed: no such file\n") == {}


@given(text=st.text(max_size=50))
def test_anything_can_be_read(text: str) -> None:
    contents(text)
