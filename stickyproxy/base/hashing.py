"""Every hash of the project: the slot table behind the hash policies, and pins.

All seeds and contexts are fixed, so that every proxy and every worker computes the same from the
same names. This is the only module that imports mmh3.

The slot table is rendezvous hashing ("highest random weight", Thaler and Ravishankar 1998) in
front of which is a fixed number of slots: a key belongs to a slot, and a slot belongs to the
member with the highest weight there. A race over all members costs O(members), so its winner is
remembered; what is remembered survives changes of the membership (see ``SlotTable``).
"""

from __future__ import annotations

import socket
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import repeat
from typing import Final, Generic, Protocol, TypeVar

# The fastest of mmh3's functions by measurement: positional, unsigned, no keyword parsing.
from mmh3 import mmh3_32_uintdigest as _mmh3

SLOTS: Final = 1 << 16
MAX_MEMBERS: Final = (1 << 16) - 2

_KEY_SEED: Final = 0x73746B79
_SPREAD_SEED: Final = 0x73707264
_SLOT_MASK: Final = SLOTS - 1
_SEAT_BITS: Final = 16
_SEAT_MASK: Final = (1 << _SEAT_BITS) - 1

# What a table starts from: no slot decided. Shared by all of them, and never written to.
_BLANK: Final = array("I", [0]) * SLOTS


class Member(Protocol):
    """Anything that can own slots: ``service`` and ``id`` together are its identity."""

    @property
    def service(self) -> str: ...

    @property
    def id(self) -> str: ...


M = TypeVar("M", bound=Member)


class SlotTable(Generic[M]):
    """Which member owns a key. Depends on the identities of the members only.

    Members take numbered seats in order of arrival; a seat is never given to another, and one that
    leaves and comes back takes a new one. A slot's entry holds two numbers: the seat of its owner
    (low 16 bits), and how many seats had been taken when it was decided (high 16 bits). So an
    entry says by itself what has happened since: the owner's seat may be empty now (race again),
    or later seats exist (only they can beat the owner, as it has beaten all before them).

    Hence nothing is recomputed when members change, only when a slot is next asked for: an update
    costs O(members) whatever was decided, and the array is copied when it is first written to.
    """

    __slots__ = ("_entries", "_fresh", "_identities", "_mine", "_people", "_seated", "_seats")

    def __init__(self, members: Iterable[M] = ()) -> None:
        """Raises ValueError for more than ``MAX_MEMBERS``."""
        self._identities: list[bytes] = []  # by seat, also of members that left
        self._people: list[M | None] = []  # by seat; None: left
        self._seats: dict[tuple[str, str], int] = {}
        self._entries = _BLANK
        self._mine = False  # True once the entries are a copy of our own
        self._seat(members, {})

    def updated(self, members: Iterable[M]) -> SlotTable[M]:
        """The table for another set of members; owns what a new ``SlotTable(members)`` would.

        Raises ValueError for more than ``MAX_MEMBERS``.
        """
        members = tuple(members)
        # Empty seats cost memory: start afresh when most are, or when numbers run out.
        limit = min(MAX_MEMBERS, 4 * len(members) + 1024)
        if len(self._identities) + len(members) > limit:
            return SlotTable(members)
        table: SlotTable[M] = SlotTable()
        table._identities = self._identities.copy()
        table._people = [None] * len(self._people)
        table._entries = self._entries
        table._seat(members, self._seats)
        return table

    def _seat(self, members: Iterable[M], before: Mapping[tuple[str, str], int]) -> None:
        for member in members:
            name = (member.service, member.id)
            seat = before.get(name)
            if seat is None:
                seat = len(self._identities)
                self._identities.append(_identity(*name))
                self._people.append(None)
            self._people[seat] = member
            self._seats[name] = seat
        if len(self._identities) > MAX_MEMBERS:
            raise ValueError(f"at most {MAX_MEMBERS} members fit a slot table")
        self._seated = list(self._seats.values())
        # An entry below this was decided before the last seat was taken, or not at all (zero).
        self._fresh = max(1, len(self._identities)) << _SEAT_BITS

    def owner(self, key: bytes, tried: Collection[M] = ()) -> M | None:
        """The member that owns ``key``; if that one is in ``tried``, the best of the others.
        None if no member is left."""
        slot = _mmh3(key, _KEY_SEED) & _SLOT_MASK
        entry = self._entries[slot]
        owner = self._people[entry & _SEAT_MASK] if entry >= self._fresh else None
        if owner is None:
            owner = self._decide(slot)
        if tried and owner in tried:
            return self._race(slot, [s for s in self._seated if self._people[s] not in tried])
        return owner

    @staticmethod
    def slot(key: bytes) -> int:
        """The slot that ``key`` belongs to, less than ``SLOTS``."""
        return _mmh3(key, _KEY_SEED) & _SLOT_MASK

    def _decide(self, slot: int) -> M | None:
        seats_then, seat = divmod(self._entries[slot], 1 << _SEAT_BITS)
        later = range(seats_then, len(self._people))
        known = seats_then > 0 and self._people[seat] is not None
        if known and len(later) < len(self._seated):
            runners = [s for s in (seat, *later) if self._people[s] is not None]
        else:
            runners = self._seated
        owner = self._race(slot, runners)
        if owner is not None:
            if not self._mine:
                self._entries, self._mine = self._entries[:], True
            seat = self._seats[owner.service, owner.id]
            self._entries[slot] = self._fresh | seat
        return owner

    def _race(self, slot: int, seats: Sequence[int]) -> M | None:
        """Whose hash, seeded with the slot, is highest; ties go to the higher identity."""
        if not seats:
            return None
        identities = [self._identities[seat] for seat in seats]
        weights = map(_mmh3, identities, repeat(slot))
        _, _, winner = max(zip(weights, identities, seats, strict=True))
        return self._people[winner]

    def __repr__(self) -> str:
        return f"<SlotTable of {len(self._seated)}>"


def _identity(service: str, endpoint_id: str) -> bytes:
    return blake2b(_encoded(service, endpoint_id), digest_size=16).digest()


def _encoded(service: str, endpoint_id: str) -> bytes:
    """Both names in one, unambiguously: no other pair of names gives the same bytes."""
    name = service.encode()
    return b"%d:%b%b" % (len(name), name, endpoint_id.encode())


# --- the address of a client as a key -------------------------------------------------------

_V4_MAPPED: Final = bytes(10) + b"\xff\xff"


def address_key(address: str) -> bytes:
    """What to hash of a client's IP address: IPv4 whole, IPv6 its /64 (a host changes the rest at
    will, RFC 8981). Anything else is hashed as is."""
    # inet_pton takes a tenth of the time of the ipaddress module.
    try:
        if ":" not in address:
            return socket.inet_pton(socket.AF_INET, address)
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except (OSError, ValueError):
        return address.encode(errors="backslashreplace")
    return packed[12:] if packed.startswith(_V4_MAPPED) else packed[:8]


def spread(key: bytes) -> int:
    """32 bits by which keys are told apart, and which say nothing of their slots."""
    return _mmh3(key, _SPREAD_SEED)


# --- pins -----------------------------------------------------------------------------------

PIN_PREFIX: Final = b"sp1."
_QUOTED_OR_NOT: Final = (PIN_PREFIX, b'"' + PIN_PREFIX)
_HALF: Final = 16
"""Hex digits of either half of a pin that names a slot."""
_SLOT_PIN: Final = len(PIN_PREFIX) + _HALF


def pin_key(secret: bytes | None, realm: str = "") -> bytes:
    """The 32-byte key that pins are made with.

    ``secret``: as configured. Without one, ``realm`` takes its place: what all proxies of a Swarm
    have in common. Pins are then no secret to anyone with the realm and the task ids; all a forged
    one can do is choose among endpoints that its sender could reach anyway.
    """
    if secret is not None:
        return blake2b(secret, digest_size=32, person=b"stickyproxy-scrt").digest()
    return blake2b(realm.encode(), digest_size=32, person=b"stickyproxy-rlm").digest()


def pin(key: bytes, service: str, endpoint_id: str, slot: str = "") -> bytes:
    """The cookie value that identifies one endpoint: ``sp1.`` and 24 lower-case hex digits. With a
    slot: ``sp1.``, 16 for the slot, a dot, and the first 16 of those for the endpoint. Versions
    that know of no slots take it for the pin of an endpoint that is gone."""
    digest = blake2b(_encoded(service, endpoint_id), digest_size=12, key=key).hexdigest().encode()
    if not slot:
        return PIN_PREFIX + digest
    return slot_pin(key, service, slot) + b"." + digest[:_HALF]


def slot_pin(key: bytes, service: str, slot: str) -> bytes:
    """What the pins of all have in common who hold this slot of a service, one after the other."""
    digest = blake2b(_encoded(service, slot), digest_size=_HALF // 2, key=key, person=b"slot")
    return PIN_PREFIX + digest.hexdigest().encode()


def slot_of_pin(value: bytes) -> bytes:
    """The part of a pin that names a slot; empty: it names none."""
    return value[:_SLOT_PIN] if value[_SLOT_PIN : _SLOT_PIN + 1] == b"." else b""


def looks_like_pin(value: bytes) -> bool:
    """True for a cookie value in the shape of a pin, quoted or not. Only the prefix counts, so
    that truncated and forged ones are treated as the pins they claim to be, and replaced."""
    return value.startswith(_QUOTED_OR_NOT)
