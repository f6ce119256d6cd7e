"""Which trace a request belongs to (W3C Trace Context, https://www.w3.org/TR/trace-context/): the
fields ``traceparent`` and ``tracestate``. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

SAMPLED, RANDOM = 1, 2
"""Flags: somebody records the trace; its id is random."""

_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class Parent:
    """The span that a request was made in."""

    trace_id: bytes
    """32 hex digits."""
    span_id: bytes
    """16 hex digits."""
    flags: int


def parent_of(values: Sequence[bytes]) -> Parent | None:
    """What the ``traceparent`` fields of a request say; None: nothing that counts, and what
    ``tracestate`` says does not count either (sections 3.2.2 and 3.3)."""
    if len(values) != 1:
        return None
    match = _PARENT.fullmatch(values[0])
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == b"ff" or (version == b"00" and rest is not None):
        return None
    if trace_id == b"0" * 32 or span_id == b"0" * 16:
        return None
    return Parent(trace_id, span_id, int(flags, 16) & (SAMPLED | RANDOM))


def is_chosen(trace_id: bytes, share: float) -> bool:
    """Whether a trace is among a share of all, from 0 to 1: all proxies choose the same ones."""
    return share >= 1 or int(trace_id[-14:], 16) < share * (1 << 56)
