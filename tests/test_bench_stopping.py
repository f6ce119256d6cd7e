"""What the stopping lab takes an end of a connection for: Linux tells more than "closed"."""

from __future__ import annotations

import itertools
import selectors
import socket
import time
from collections.abc import Iterator

import pytest

from bench.rolling import Count, cell, merge
from bench.stopping import Outcome, Probe

PATIENCE = 10.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.fixture
def selector() -> Iterator[selectors.BaseSelector]:
    with selectors.DefaultSelector() as made:
        yield made


@pytest.fixture
def probe(listener: socket.socket, selector: selectors.BaseSelector) -> Iterator[Probe]:
    made = Probe(listener.getsockname()[1], itertools.count(1), selector)
    yield made
    made.give_up()


def outcome(probe: Probe, selector: selectors.BaseSelector) -> Outcome | None:
    """What becomes of the request under way."""
    until = time.monotonic() + PATIENCE
    while probe.outcome is None and time.monotonic() < until:
        for key, _ in selector.select(0.1):
            key.data.readable()
    return probe.outcome


class TestOutcomes:
    def test_nobody_listens(self, selector: selectors.BaseSelector) -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            probe = Probe(bound.getsockname()[1], itertools.count(1), selector)
            assert probe.send().outcome is Outcome.REFUSED

    def test_an_answer(
        self, listener: socket.socket, probe: Probe, selector: selectors.BaseSelector
    ) -> None:
        probe.send()
        server, _ = listener.accept()
        with server:
            server.recv(65536)
            server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")
            assert outcome(probe, selector) is Outcome.SERVED

    def test_half_an_answer(
        self, listener: socket.socket, probe: Probe, selector: selectors.BaseSelector
    ) -> None:
        probe.send()
        server, _ = listener.accept()
        with server:
            server.recv(65536)
            server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\no")
        assert outcome(probe, selector) is Outcome.CUT

    def test_a_connection_that_was_never_accepted_is_reset(
        self, listener: socket.socket, probe: Probe, selector: selectors.BaseSelector
    ) -> None:
        probe.send()
        listener.close()
        assert outcome(probe, selector) is Outcome.RESET

    def test_a_request_that_was_not_read_is_reset(
        self, listener: socket.socket, probe: Probe, selector: selectors.BaseSelector
    ) -> None:
        probe.send()
        listener.accept()[0].close()
        assert outcome(probe, selector) is Outcome.RESET

    def test_a_request_that_was_read_in_part_is_reset(
        self, listener: socket.socket, probe: Probe, selector: selectors.BaseSelector
    ) -> None:
        probe.send(body=b"a" * 10_000)
        server, _ = listener.accept()
        with server:
            server.recv(4096)
        assert outcome(probe, selector) is Outcome.RESET

    def test_a_request_that_was_read_ends_with_its_connection(
        self, listener: socket.socket, probe: Probe, selector: selectors.BaseSelector
    ) -> None:
        probe.send()
        server, _ = listener.accept()
        with server:
            server.recv(65536)
        assert outcome(probe, selector) is Outcome.CLOSED

    def test_a_request_crosses_the_end_of_its_connection(
        self, listener: socket.socket, probe: Probe, selector: selectors.BaseSelector
    ) -> None:
        listener.accept()[0].close()
        probe.send()
        assert outcome(probe, selector) is Outcome.CROSSED

    def test_an_end_that_was_seen_before(
        self, listener: socket.socket, probe: Probe, selector: selectors.BaseSelector
    ) -> None:
        probe.send()
        server, _ = listener.accept()
        with server:
            server.recv(65536)
            server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert outcome(probe, selector) is Outcome.SERVED
        until = time.monotonic() + PATIENCE
        while not probe.ended and time.monotonic() < until:
            for key, _ in selector.select(0.1):
                key.data.readable()
        assert probe.send().outcome is Outcome.GONE


class TestRollingCells:
    def test_nothing_failed(self) -> None:
        assert cell({"POST": Count(sent=5), "GET": Count(sent=5)}) == "**0**"

    def test_failures_and_what_was_carried_out_all_the_same(self) -> None:
        counts = {"POST": Count(sent=5, failed=3, carried=1, twice=2), "GET": Count(failed=4)}
        assert cell(counts) == "3 (1) + 4, 2 twice"

    def test_runs_add_up(self) -> None:
        one = {"POST": Count(sent=5, failed=1, answers={"502": 1}), "GET": Count()}
        other = {"POST": Count(sent=6, failed=2, answers={"502": 1, "0": 1}), "GET": Count()}
        total = merge(one, other)["POST"]
        assert (total.sent, total.failed, total.answers) == (11, 3, {"502": 2, "0": 1})
