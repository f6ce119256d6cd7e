"""providers/acme/storage.py: a compare-and-swap in files that only their owner may read."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

from stickyproxy.providers.acme.storage import DirectoryStore


def test_a_record_is_replaced_by_who_knows_it(tmp_path: Path) -> None:
    one, other = DirectoryStore(str(tmp_path / "a" / "b")), DirectoryStore(str(tmp_path / "a/b"))
    assert one.read() == {}
    version = one.write("names-1", b"first", "")
    assert version
    assert other.read()["names-1"].data == b"first"
    assert other.read()["names-1"].version == version
    assert other.write("names-1", b"second", "") == "", "there is one already"
    assert other.write("names-1", b"second", version)
    assert one.write("names-1", b"third", version) == "", "it is another one by now"
    assert one.read()["names-1"].data == b"second"
    one.remove("names-1")
    one.remove("names-1")
    assert other.read() == {}


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    store = DirectoryStore(str(tmp_path / "store"))
    store.read()
    store.write("names-1", b"key", "")
    folder = tmp_path / "store"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_what_was_left_by_an_interrupted_write_is_removed(tmp_path: Path) -> None:
    store = DirectoryStore(str(tmp_path))
    (tmp_path / ".names-1.json.x1y2").write_bytes(b"half")
    assert store.read() == {}
    store.write("names-1", b"whole", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "names-1.json"]


def test_of_many_at_once_one_wins(tmp_path: Path) -> None:
    won: list[str] = []

    def race(number: int) -> None:
        if DirectoryStore(str(tmp_path)).write("names-1", b"%d" % number, ""):
            won.append(str(number))

    threads = [threading.Thread(target=race, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = won
    assert DirectoryStore(str(tmp_path)).read()["names-1"].data == winner.encode()
