"""A mutation fuzzer over both directions: requests of clients and answers of endpoints.

    python -m tests.hostile.fuzz --seconds 60             or: make fuzz SECONDS=60
    python -m tests.hostile.fuzz --seed 7 --count 1000    the same again

Seeds are the rows of the tables. A mutation of one goes through the proxy to the recording
endpoint and back, and what came of it need not be anything in particular, but it has to harm
nobody: see the package's docstring for what a ``Fault`` is. A mutation depends on the seed, its
number and the tables, and is printed when it fails; what failed is kept in ``finds/`` and from then
on replayed by ``test_finds.py``. Give a find a name that says what it was.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.hostile import (
    answers_body,
    answers_head,
    requests_connection,
    requests_fields,
    requests_framing,
    requests_syntax,
    requests_target,
)
from tests.hostile.arena import Behaviour, Fault, early, in_time, switching
from tests.hostile.case import AnswerCase, End, RequestCase, ask, declined
from tests.hostile.stage import Stage, set_up

FINDS = Path(__file__).parent / "finds"
LARGEST = 20_000
"""Bytes: larger rows are not mutated, for they only take time."""

REQUESTS: tuple[bytes, ...] = tuple(
    b"".join(case.pieces)
    for table in (
        requests_framing,
        requests_syntax,
        requests_target,
        requests_fields,
        requests_connection,
    )
    for case in table.CASES
    if sum(map(len, case.pieces)) < LARGEST
)
ANSWERS: tuple[bytes, ...] = tuple(
    b"".join(case.pieces)
    for table in (answers_head, answers_body)
    for case in table.CASES
    if sum(map(len, case.pieces)) < LARGEST
)
ASKED = (
    ask("GET /asked"),
    ask("HEAD /asked"),
    ask("GET /asked", version="HTTP/1.0"),
    ask("POST /asked", "Content-Length: 5", body="hello"),
    ask("GET /asked", "Connection: Upgrade", "Upgrade: foo"),
    ask("GET /asked") + ask("GET /second"),
)
BEHAVIOURS: dict[str, Behaviour] = {"in_time": in_time, "early": early, "switching": switching}
ENDS: tuple[End, ...] = ("keep", "close", "reset")

# --- mutations ----------------------------------------------------------------------------------

WORDS = [
    *(b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"Transfer-Encoding: identity\r\n", b"Connection: close\r\n", b"Connection: keep-alive\r\n"),
    *(b"Connection: Upgrade\r\nUpgrade: foo\r\n", b"Expect: 100-continue\r\n", b"Host: a\r\n"),
    *(b"HTTP/1.1", b"HTTP/1.0", b"chunked", b"0\r\n\r\n", b"5\r\nhello\r\n", b"\r\n\r\n", b"\r\n"),
    *(b"\n", b"\r", b"\0", b" ", b"\t", b"\x0b", b":", b";", b",", b'"', b"#", b"_", b"\xff"),
    *(b"GET /spliced HTTP/1.1\r\nHost: hostile.test\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
    b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nspliced",
]
NUMBERS = [
    *(b"0", b"1", b"-1", b"+5", b"0x5", b"00", b"5 ", b" 5", b"5,5", b"5_0", b"1e3", b"fff"),
    *(str(1 << bits).encode() for bits in (31, 32, 53, 63, 64, 65)),
    *(str((1 << bits) - 1).encode() for bits in (31, 32, 53, 63, 64)),
    *(b"%x" % ((1 << bits) - 1) for bits in (32, 63, 64, 68)),
    b"9" * 40,
]

Mutation = Callable[[random.Random, bytes], bytes]


def flip(draw: random.Random, data: bytes) -> bytes:
    """One bit, or one byte."""
    at = draw.randrange(len(data))
    byte = data[at] ^ (1 << draw.randrange(8)) if draw.random() < 0.5 else draw.randrange(256)
    return data[:at] + bytes([byte]) + data[at + 1 :]


def drop(draw: random.Random, data: bytes) -> bytes:
    """A few bytes are missing."""
    at = draw.randrange(len(data))
    return data[:at] + data[at + draw.choice((1, 1, 2, 4, 16)) :]


def insert(draw: random.Random, data: bytes) -> bytes:
    """A word that means something, anywhere."""
    at = draw.randrange(len(data) + 1)
    return data[:at] + draw.choice(WORDS) + data[at:]


def insert_line(draw: random.Random, data: bytes) -> bytes:
    """A field line, where lines begin."""
    lines = data.split(b"\r\n")
    lines.insert(draw.randrange(len(lines)) + 1, draw.choice(WORDS).removesuffix(b"\r\n"))
    return b"\r\n".join(lines)


def repeat_line(draw: random.Random, data: bytes) -> bytes:
    """A line twice, or somewhere else."""
    lines = data.split(b"\r\n")
    line = draw.choice(lines)
    if draw.random() < 0.3:
        lines.remove(line)
    lines.insert(draw.randrange(len(lines) + 1), line)
    return b"\r\n".join(lines)


def number(draw: random.Random, data: bytes) -> bytes:
    """Another number: a length, a chunk size, a status, a version."""
    places = [at for at in range(len(data)) if data[at : at + 1].isdigit()]
    if not places:
        return insert(draw, data)
    at = end = draw.choice(places)
    while data[end : end + 1].isdigit():
        end += 1
    if draw.random() < 0.3:
        return data[:at] + str(int(data[at:end][:15]) + draw.choice((-1, 1))).encode() + data[end:]
    return data[:at] + draw.choice(NUMBERS) + data[end:]


def blank(draw: random.Random, data: bytes) -> bytes:
    """White space beside a separator."""
    places = [at for at in range(len(data)) if data[at] in b":;,=\r\n /"]
    if not places:
        return insert(draw, data)
    at = draw.choice(places) + draw.randrange(2)
    return data[:at] + draw.choice((b" ", b"\t", b"\r", b"\n", b"\x0b", b"\x0c")) + data[at:]


def line_end(draw: random.Random, data: bytes) -> bytes:
    """Another line end."""
    pieces = data.split(b"\r\n")
    if len(pieces) < 2:
        return flip(draw, data)
    at = draw.randrange(1, len(pieces))
    end = draw.choice((b"\n", b"\r", b"\r\r\n", b"\n\r", b"", b"\r\n ", b"\r\n\r\n"))
    return b"\r\n".join(pieces[:at]) + end + b"\r\n".join(pieces[at:])


def case(draw: random.Random, data: bytes) -> bytes:
    """Upper or lower case."""
    at = draw.randrange(len(data))
    return data[:at] + data[at : at + draw.randrange(1, 12)].swapcase() + data[at + 12 :]


def truncate(draw: random.Random, data: bytes) -> bytes:
    """The end is missing."""
    return data[: draw.randrange(len(data))] or data


MUTATIONS: tuple[Mutation, ...] = (
    *(flip, drop, insert, insert, insert_line, insert_line, repeat_line, repeat_line),
    *(number, number, number, blank, blank, line_end, line_end, case, truncate),
)


def mutate(draw: random.Random, corpus: Sequence[bytes]) -> bytes:
    """A row of the corpus, mutated a few times; at times spliced with another."""
    data = draw.choice(corpus) or b"\r\n"
    if draw.random() < 0.15:
        other = draw.choice(corpus)
        data = data[: draw.randrange(len(data) + 1)] + other[draw.randrange(len(other) + 1) :]
    elif draw.random() < 0.15:
        data += draw.choice(corpus)
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 5))):
        data = draw.choice(MUTATIONS)(draw, data or b"\r\n")
    return data


def split(draw: random.Random, data: bytes) -> tuple[bytes, ...]:
    """In one piece most times, else in several writes."""
    if draw.random() < 0.6 or len(data) < 2:
        return (data,)
    cuts = sorted({draw.randrange(1, len(data)) for _ in range(draw.choice((1, 1, 2, 5)))})
    return tuple(data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True))


# --- one mutation, and how it is kept -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shot:
    """What is played: in one direction a mutation, in the other something well-formed."""

    direction: Literal["request", "answer"]
    pieces: tuple[bytes, ...]
    behaviour: str = "in_time"
    """Of the endpoint, for a request."""
    end: End = "keep"
    """What the endpoint does behind its answer."""
    asked: bytes = ASKED[0]
    at_head: bool = False

    def play(self, stage: Stage) -> None:
        """Raises Fault."""
        if self.direction == "request":
            behaviour = BEHAVIOURS[self.behaviour]
            row = RequestCase("mutation", "fuzz", self.pieces, declined(200), behaviour)
            stage.play_request(row, judged=False)
        else:
            answer = AnswerCase(
                "mutation", "fuzz", self.pieces, (), self.end, self.asked, self.at_head
            )
            stage.play_answer(answer, judged=False)

    def dump(self) -> str:
        """As the text of a file in ``finds/``."""
        plain = {
            "direction": self.direction,
            "pieces": [piece.decode("latin-1") for piece in self.pieces],
            "behaviour": self.behaviour,
            "end": self.end,
            "asked": self.asked.decode("latin-1"),
            "at_head": self.at_head,
        }
        return json.dumps(plain, indent=1) + "\n"

    @classmethod
    def load(cls, text: str) -> Shot:
        """What ``dump`` wrote."""
        plain = json.loads(text)
        plain["pieces"] = tuple(piece.encode("latin-1") for piece in plain["pieces"])
        plain["asked"] = plain["asked"].encode("latin-1")
        return cls(**plain)


def shot(seed: int, number: int) -> Shot:
    """The mutation of that number: always the same."""
    draw = random.Random(f"{seed}/{number}")
    if draw.random() < 0.6:
        pieces = split(draw, mutate(draw, REQUESTS))
        behaviour = draw.choice(("in_time", "in_time", "early", "switching"))
        return Shot("request", pieces, behaviour=behaviour)
    pieces = split(draw, mutate(draw, ANSWERS))
    end = draw.choice((*ENDS, "keep"))
    return Shot("answer", pieces, "in_time", end, draw.choice(ASKED), draw.random() < 0.2)


def kept() -> Iterator[tuple[Path, Shot]]:
    """All finds."""
    for path in sorted(FINDS.glob("*.json")):
        yield path, Shot.load(path.read_text())


# --- the command --------------------------------------------------------------------------------


def main() -> int:
    """The command line. Returns how many mutations failed, at most 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=None, help="play for so long")
    parser.add_argument("--count", type=int, default=None, help="play so many")
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--most", type=int, default=10, help="stop after so many finds")
    parser.add_argument("--no-peers", action="store_true", help="without nginx and HAProxy")
    arguments = parser.parse_args()
    seed = (
        arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    )
    seconds = arguments.seconds if arguments.seconds or arguments.count else 60.0
    print(f"seed {seed}", flush=True)
    began = time.monotonic()
    number, found = arguments.first, 0
    with (
        tempfile.TemporaryDirectory() as directory,
        set_up(Path(directory), peers=not arguments.no_peers) as stage,
    ):
        while found < arguments.most:
            if seconds is not None and time.monotonic() - began > seconds:
                break
            if arguments.count is not None and number - arguments.first >= arguments.count:
                break
            made = shot(seed, number)
            try:
                made.play(stage)
            except Fault as fault:
                found += 1
                FINDS.mkdir(exist_ok=True)
                path = FINDS / f"{seed}-{number}.json"
                path.write_text(made.dump())
                print(f"--seed {seed} --first {number} --count 1: {fault}\n  kept: {path}")
            number += 1
    took = time.monotonic() - began
    print(f"{number - arguments.first} mutations in {took:.0f} s, {found} of them failed")
    return min(found, 1)


if __name__ == "__main__":
    sys.exit(main())
