"""dataplane/downstream/listeners.py: from specs to sockets, in shares. Serving: tests/runtime."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from stickyproxy.base.addresses import Address
from stickyproxy.base.errors import ListenError
from stickyproxy.dataplane.downstream.listeners import Listeners
from stickyproxy.model.listener import ListenerSpec

TCP = ListenerSpec(Address("127.0.0.1", 0))


async def test_each_socket_comes_with_its_spec(tmp_path: Path) -> None:
    local = ListenerSpec(Address(path=str(tmp_path / "proxy.sock")))
    listeners = await Listeners.open([TCP, local], shares=2)
    try:
        assert [[each.spec for each in share] for share in listeners.shares] == [[TCP, local]] * 2
        (first, unix), (second, same_unix) = listeners.shares
        assert first.sock is not second.sock, "a queue of its own for each share"
        assert first.sock.getsockname() == second.sock.getsockname()
        assert unix.sock is same_unix.sock
        port = first.sock.getsockname()[1]
        assert listeners.names == [f"127.0.0.1:{port}", str(local.address)]
    finally:
        listeners.close()
    assert not (tmp_path / "proxy.sock").exists()


async def test_all_or_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        spec = ListenerSpec(Address("127.0.0.1", taken.getsockname()[1]))
        with pytest.raises(ListenError, match="another program listens there"):
            await Listeners.open([TCP, spec])
