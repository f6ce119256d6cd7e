"""Everything that a case needs, put together: proxy, arena, differ and peers."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.hostile.arena import (
    Arena,
    Behaviour,
    Client,
    Connection,
    Fault,
    Record,
    echo_of,
    in_time,
)
from tests.hostile.case import AnswerCase, RequestCase
from tests.hostile.differ import Differ
from tests.hostile.peers import Peer, installed
from tests.hostile.proxy import Proxy
from tests.hostile.reading import RequestReader
from tests.scripted import Method


class Stage:
    """Where cases are played."""

    def __init__(self, arena: Arena, proxy: Proxy, differ: Differ, peers: Sequence[Peer]) -> None:
        self.arena = arena
        self.proxy = proxy
        self.differ = differ
        self.peers = peers
        self._said = ""

    def play_request(
        self,
        case: RequestCase,
        *,
        behaviour: Behaviour | None = None,
        judged: bool = True,
    ) -> Record:
        """Raises Fault. ``judged``: what came of it has to be allowed; otherwise it only has to
        harm nobody else."""

        def enough(client: Client) -> bool:
            answers = client.answers
            closing = bool(answers.final) and answers.final[-1].closes
            return case.enough(answers.statuses, answers.rest, closing)

        with self._cleaned_up():
            record = self.arena.play(
                case.pieces,
                methods=case.methods,
                enough=enough,
                behaviour=behaviour or case.behaviour,
                local=case.local,
                patient=judged,
            )
            if judged:
                case.judge(record)
            # Which answers belong to a HEAD is known of rows, but not of mutations.
            sure = judged or b"HEAD" not in b"".join(case.pieces)
            self._compare(record, case.methods if sure else ())
        return record

    def play_answer(self, case: AnswerCase, *, judged: bool = True) -> Record:
        """Raises Fault."""

        def enough(client: Client) -> bool:
            final = client.answers.final
            if len(final) == 1 and final[0].status == 101:
                return True
            return len(final) == 1 and not final[0].closes

        with self._cleaned_up():
            record = self.arena.play(
                (case.asked,),
                methods=case.methods,
                enough=enough,
                behaviour=answering(case),
                patient=judged,
            )
            if judged:
                case.judge(record)
            self._compare(record, case.methods)
        return record

    def _compare(self, record: Record, methods: Sequence[Method]) -> None:
        """``methods``: what was answered; none: the answers are not looked at."""
        for stream in record.streams:
            read = self.differ.requests(stream)
            reader = RequestReader()
            reader.feed(stream)
            for peer in self.peers if reader.whole else ():
                peer.check(stream[: reader.whole], read)
        if methods and record.answers.final and 101 not in record.answers.statuses:
            self.differ.answers(record.received, methods)
        log = self.proxy.log
        if log != self._said:
            new, self._said = log[len(self._said) :], log
            if "Traceback" in new or "Warning" in new:
                raise Fault(f"the proxy said: {new[-3000:]}")

    @contextlib.contextmanager
    def _cleaned_up(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.arena.turn_over(afresh=True)
            self.arena.warm_up()
            raise


def answering(case: AnswerCase) -> Behaviour:
    """The first request gets what the row says, all others get a proper answer."""
    played: list[Connection] = []

    def behave(connection: Connection) -> None:
        reader = connection.reader
        asked = reader.heads if case.at_head else reader.requests
        if played or len(asked) <= connection.answered:
            if connection not in played or len(reader.requests) > connection.answered:
                in_time(connection)
            return
        played.append(connection)
        connection.answered += 1
        for piece in case.pieces:
            connection.send(piece)
        if case.end == "close":
            connection.end()
        elif case.end == "reset":
            connection.reset()

    return behave


@contextlib.contextmanager
def set_up(
    directory: Path, *, peers: bool = True, tls: ssl.SSLContext | None = None
) -> Iterator[Stage]:
    """A stage with all that is installed. ``tls``: what the endpoint speaks."""
    with ExitStack() as stack:
        arena = Arena(tls)
        stack.callback(arena.close)
        differ = Differ()
        stack.callback(differ.close)
        proxy = stack.enter_context(Proxy(directory, arena.endpoint_port, tls=tls is not None))
        arena.proxy_port = proxy.port
        running = []
        for name, binary in installed() if peers else ():
            of_peer = directory / name
            of_peer.mkdir()
            running.append(stack.enter_context(Peer(name, binary, of_peer)))
        arena.warm_up()
        yield Stage(arena, proxy, differ, running)


__all__ = ["Fault", "Stage", "answering", "echo_of", "set_up"]
