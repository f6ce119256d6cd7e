"""connector/server.py: a connector in a process of its own, asked over its real socket."""

from __future__ import annotations

import errno
import json
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stickyproxy.connector import server, wire
from tests.connector.running import FullListener, PlainPeer, RunningConnector, eventually


@pytest.fixture
def connector(tmp_path: Path) -> Iterator[RunningConnector]:
    """One that ends at once when told to."""
    with RunningConnector(tmp_path) as running:
        yield running


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A TCP listener on 127.0.0.1 with room for all that tests make."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as sock:
        yield sock


class TestConnecting:
    def test_a_connected_socket_comes(
        self, connector: RunningConnector, listener: socket.socket
    ) -> None:
        with PlainPeer(connector.path) as peer:
            peer.ask(7, listener.getsockname())
            kind, _, number, sock = peer.take()
            assert (kind, number) == (wire.CONNECTED, 7)
            assert sock is not None
            accepted, _ = listener.accept()
            with sock, accepted:
                accepted.sendall(b"hello")
                sock.setblocking(True)
                assert sock.recv(5) == b"hello"
                sock.sendall(b"and back")
                assert accepted.recv(8) == b"and back"

    def test_it_cannot_block_who_gets_it(
        self, connector: RunningConnector, listener: socket.socket
    ) -> None:
        with PlainPeer(connector.path) as peer:
            peer.ask(1, listener.getsockname())
            sock = peer.take()[3]
            assert sock is not None
            with sock, pytest.raises(BlockingIOError):
                sock.recv(1, socket.MSG_PEEK)

    def test_the_connector_keeps_no_end_of_it(
        self, connector: RunningConnector, listener: socket.socket
    ) -> None:
        with PlainPeer(connector.path) as peer:
            peer.ask(1, listener.getsockname())
            sock = peer.take()[3]
            assert sock is not None
            accepted, _ = listener.accept()
            with accepted:
                sock.close()
                accepted.settimeout(20)
                assert accepted.recv(1) == b""

    def test_ipv6(self, connector: RunningConnector) -> None:
        with (
            socket.create_server(("::1", 0), family=socket.AF_INET6) as listener,
            PlainPeer(connector.path) as peer,
        ):
            peer.ask(1, listener.getsockname()[:2])
            kind, _, _, sock = peer.take()
            assert kind == wire.CONNECTED
            assert sock is not None
            sock.close()

    def test_a_refusal_is_told(self, connector: RunningConnector) -> None:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            address = gone.getsockname()
        with PlainPeer(connector.path) as peer:
            peer.ask(1, address)
            assert peer.take() == (wire.FAILED, errno.ECONNREFUSED, 1, None)

    def test_no_answer_in_time_is_told(self, connector: RunningConnector) -> None:
        with FullListener() as address, PlainPeer(connector.path) as peer:
            peer.ask(1, address, milliseconds=100)
            assert peer.take() == (wire.FAILED, errno.ETIMEDOUT, 1, None)

    def test_one_that_waits_holds_up_nobody(
        self, connector: RunningConnector, listener: socket.socket
    ) -> None:
        with FullListener() as address, PlainPeer(connector.path) as peer:
            peer.ask(1, address)
            peer.ask(2, listener.getsockname())
            kind, _, number, sock = peer.take()
            assert (kind, number) == (wire.CONNECTED, 2)
            assert sock is not None
            sock.close()

    def test_many_at_once_for_several_peers(
        self, connector: RunningConnector, listener: socket.socket
    ) -> None:
        with PlainPeer(connector.path) as one, PlainPeer(connector.path) as other:
            for number in range(200):
                one.ask(number, listener.getsockname())
                other.ask(1000 + number, listener.getsockname())
            for peer, first in ((one, 0), (other, 1000)):
                numbers = set()
                for _ in range(200):
                    kind, _, number, sock = peer.take()
                    assert kind == wire.CONNECTED
                    assert sock is not None
                    sock.close()
                    numbers.add(number)
                assert numbers == set(range(first, first + 200))

    def test_a_ping_is_answered(self, connector: RunningConnector) -> None:
        with PlainPeer(connector.path) as peer:
            peer.sock.send(wire.REQUEST.pack(wire.PING, 0, 0, 99, 0, b""))
            assert peer.take() == (wire.PONG, 0, 99, None)


class TestBounds:
    def test_what_is_under_way_for_one_peer(self, tmp_path: Path) -> None:
        with (
            RunningConnector(tmp_path, descriptors=4096) as connector,
            FullListener() as address,
            PlainPeer(connector.path) as peer,
        ):
            for number in range(server.MAX_PENDING + 1):
                peer.ask(number, address)
            assert peer.take() == (wire.FAILED, errno.ENOBUFS, server.MAX_PENDING, None)

    def test_descriptors_run_out_and_come_back(self, tmp_path: Path) -> None:
        with RunningConnector(tmp_path, descriptors=24) as connector:
            with FullListener() as address, PlainPeer(connector.path) as peer:
                for number in range(24):
                    peer.ask(number, address)
                kind, value, _, _ = peer.take()
                assert (kind, value) == (wire.FAILED, errno.EMFILE)
            with (
                socket.create_server(("127.0.0.1", 0)) as listener,
                PlainPeer(connector.path) as peer,
            ):
                peer.ask(1, listener.getsockname())
                kind, _, _, sock = peer.take()
                assert kind == wire.CONNECTED
                assert sock is not None
                sock.close()

    def test_no_descriptor_for_one_more_peer(self, tmp_path: Path) -> None:
        """It waits in the backlog until there is one."""
        with RunningConnector(tmp_path, descriptors=24) as connector:
            peers = []
            for _ in range(26):
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                sock.settimeout(20)
                sock.connect(str(connector.path))
                peers.append(sock)
            assert peers[0].recv(64)[0] == wire.READY
            for sock in peers[:20]:
                sock.close()
            assert peers[-1].recv(64)[0] == wire.READY
            for sock in peers[20:]:
                sock.close()

    def test_too_many_peers(self, tmp_path: Path) -> None:
        with RunningConnector(tmp_path) as connector:
            peers = [PlainPeer(connector.path) for _ in range(server.MAX_PEERS)]
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as turned_away:
                turned_away.settimeout(20)
                turned_away.connect(str(connector.path))
                assert turned_away.recv(64) == b""
            for peer in peers:
                peer.sock.close()


class TestPeers:
    @pytest.mark.parametrize(
        "message",
        [
            b"GET / HTTP/1.1\r\n\r\n",
            bytes(wire.REQUEST.size),
            bytes(wire.REQUEST.size + 1),
            wire.REQUEST.pack(wire.CONNECT, 4, 0, 1, 1000, bytes(16)),
            wire.REQUEST.pack(wire.CONNECT, 5, 80, 1, 1000, bytes(16)),
            wire.REQUEST.pack(77, 4, 80, 1, 1000, bytes(16)),
        ],
        ids=["text", "zeros", "too long", "port 0", "IP version 5", "unknown kind"],
    )
    def test_bad_bytes_end_only_who_sends_them(
        self, connector: RunningConnector, message: bytes
    ) -> None:
        with PlainPeer(connector.path) as good, PlainPeer(connector.path) as bad:
            bad.sock.send(message)
            assert bad.take()[0] == 0
            good.sock.send(wire.REQUEST.pack(wire.PING, 0, 0, 5, 0, b""))
            assert good.take()[0] == wire.PONG

    def test_descriptors_that_a_peer_sends_are_not_kept(
        self, connector: RunningConnector, listener: socket.socket
    ) -> None:
        with PlainPeer(connector.path) as peer:
            before = connector.descriptors()
            ping = wire.REQUEST.pack(wire.PING, 0, 0, 5, 0, b"")
            socket.send_fds(peer.sock, [ping], [listener.fileno()])
            assert peer.take()[0] == wire.PONG
            assert connector.descriptors() == before

    def test_one_that_dies_leaves_nothing_behind(self, connector: RunningConnector) -> None:
        before = connector.descriptors()
        with FullListener() as address:
            with PlainPeer(connector.path) as peer:
                for number in range(50):
                    peer.ask(number, address)
                eventually("under way", lambda: connector.descriptors() >= before + 50)
            eventually("nothing is left", lambda: connector.descriptors() == before)

    def test_one_that_takes_no_answers_is_read_no_further(
        self, tmp_path: Path, listener: socket.socket
    ) -> None:
        with RunningConnector(tmp_path, descriptors=4096) as connector:
            before = connector.descriptors()
            with PlainPeer(connector.path) as frozen:
                frozen.sock.setblocking(False)
                number = 0
                while _may_ask(frozen, number, listener):
                    number += 1
                    if number % 64 == 0:
                        with PlainPeer(connector.path) as other:  # by now all of these were read
                            other.sock.send(wire.REQUEST.pack(wire.PING, 0, 0, 5, 0, b""))
                            assert other.take()[0] == wire.PONG
                        while _accepted(listener):
                            pass
                assert connector.descriptors() < before + server.MAX_PENDING
                with PlainPeer(connector.path) as other:
                    other.ask(1, listener.getsockname())
                    kind, _, _, sock = other.take()
                    assert kind == wire.CONNECTED
                    assert sock is not None
                    sock.close()
            eventually("nothing is left", lambda: connector.descriptors() == before)


def _may_ask(peer: PlainPeer, number: int, listener: socket.socket) -> bool:
    """Ask for a connection; False if there is no room for that."""
    assert number < 10_000
    try:
        peer.ask(number, listener.getsockname())
    except BlockingIOError:
        return False
    return True


def _accepted(listener: socket.socket) -> bool:
    """Take a connection that waits, if there is one, and close it."""
    listener.setblocking(False)
    try:
        sock, _ = listener.accept()
    except BlockingIOError:
        return False
    sock.close()
    return True


class TestItsName:
    def test_only_its_own_user_may_open_it(self, connector: RunningConnector) -> None:
        mode = connector.path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600

    def test_the_first_line_says_where_it_is(self, connector: RunningConnector) -> None:
        assert str(connector.path) in connector.first_line

    def test_a_stale_file_is_replaced(self, tmp_path: Path) -> None:
        with RunningConnector(tmp_path) as killed:
            killed.end(signal.SIGKILL)
            assert killed.path.exists()
        with RunningConnector(tmp_path) as connector, PlainPeer(connector.path):
            pass

    def test_the_newest_has_it(self, tmp_path: Path) -> None:
        with RunningConnector(tmp_path) as old, RunningConnector(tmp_path) as new:
            with PlainPeer(new.path):
                assert old.end(signal.SIGTERM) == 0
            with PlainPeer(new.path):
                pass

    def test_it_comes_back_to_who_lives(self, tmp_path: Path) -> None:
        with RunningConnector(tmp_path) as old, RunningConnector(tmp_path) as new:
            new.end(signal.SIGKILL)

            def answers() -> bool:
                try:
                    with PlainPeer(old.path):
                        return True
                except ConnectionRefusedError:
                    return False

            eventually("the old one answers", answers)

    def test_a_file_that_was_removed_comes_back(self, connector: RunningConnector) -> None:
        connector.path.unlink()
        eventually("there is one", connector.path.exists)
        with PlainPeer(connector.path):
            pass

    def test_no_other_files_are_left(self, tmp_path: Path) -> None:
        with RunningConnector(tmp_path) as connector:
            assert list(tmp_path.iterdir()) == [connector.path]
            connector.end(signal.SIGTERM)
        assert list(tmp_path.iterdir()) == []


class TestEnd:
    def test_its_peers_are_told(self, connector: RunningConnector) -> None:
        with PlainPeer(connector.path) as peer:
            assert connector.end(signal.SIGTERM) == 0
            assert peer.take()[0] == wire.LEAVING
            assert peer.take()[0] == 0
            assert not connector.path.exists()

    def test_a_second_signal_is_the_last(self, tmp_path: Path) -> None:
        """While connections go through the network namespace, the first one makes it wait."""
        with (
            RunningConnector(tmp_path, grace=600) as connector,
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname()),
            PlainPeer(connector.path) as peer,
        ):
            connector.signal(signal.SIGTERM)
            assert peer.take()[0] == wire.LEAVING
            peer.sock.send(wire.REQUEST.pack(wire.PING, 0, 0, 5, 0, b""))
            assert peer.take()[0] == wire.PONG
            assert connector.end(signal.SIGTERM) == 0

    def test_what_may_carry_bytes(self) -> None:
        head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
        row = "   0: 0100007F:1F90 0100007F:C350 {} 00000000:00000000 00:00000000 00000000     0\n"
        table = head + "".join(row.format(state) for state in ("01", "06", "08", "0A", "02"))
        assert server.carrying(table) == 2
        assert server.carrying(head) == 0
        assert server.carrying("") == 0


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stickyproxy", "connector", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)


class TestCommand:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "--network is missing"),
            (["--network", "back"], "--directory is missing"),
            (["--network"], "--network is not understood"),
            (["--color", "blue"], "--color is not understood"),
            (["--network", "../up", "--directory", "/"], "'../up' is not the name of a Docker"),
            (["--network", "a", "--directory", "/" + 107 * "x"], "too long for a unix socket"),
            (["--network", "a", "--directory", "/", "--grace", "soon"], "soon is not a number"),
        ],
    )
    def test_wrong_usage(self, arguments: list[str], message: str) -> None:
        done = _run(*arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert "usage: stickyproxy connector" in done.stderr

    def test_help(self) -> None:
        done = _run("--help")
        assert done.returncode == 0
        assert "usage: stickyproxy connector" in done.stdout

    def test_no_such_directory(self, tmp_path: Path) -> None:
        done = _run("--network", "back", "--directory", str(tmp_path / "none"))
        assert done.returncode == 1
        assert "No such file or directory" in done.stderr
        assert "may write to" in done.stderr

    def test_ping(self, connector: RunningConnector) -> None:
        where = ("--network", "back", "--directory", str(connector.path.parent))
        assert _run(*where, "--ping").returncode == 0
        connector.end(signal.SIGKILL)
        done = _run(*where, "--ping")
        assert done.returncode == 1
        assert "Connection refused" in done.stderr

    def test_it_loads_the_standard_library_only(self) -> None:
        """And of that no event loop, no logging, no parsers: there is one for every network."""
        code = (
            "import sys; sys.argv = ['stickyproxy', 'connector', '--help']; before = {*sys.modules}"
            "\nfrom stickyproxy.__main__ import main; main()"
            "\nimport json; json.dump(sorted({*sys.modules} - before), sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20
        )
        loaded = set(json.loads(done.stderr))
        ours = {name for name in loaded if name.partition(".")[0] == "stickyproxy"}
        assert ours <= {
            "stickyproxy",
            "stickyproxy.__main__",
            "stickyproxy.connector",
            "stickyproxy.connector.server",
            "stickyproxy.connector.wire",
        }
        assert {name.partition(".")[0] for name in loaded - ours} <= sys.stdlib_module_names
        assert not loaded & {"asyncio", "logging", "argparse", "re", "typing", "ssl", "threading"}
