"""Snapshots as JSON: between controller and proxies, and in their cache files.

Fields that are missing take their defaults and unknown ones are passed over, so that controller
and proxies may be of different versions while a cluster is updated.
"""

from __future__ import annotations

from hashlib import blake2b

from pydantic import TypeAdapter, ValidationError

from stickyproxy.model.snapshot import Snapshot

_SNAPSHOT: TypeAdapter[Snapshot] = TypeAdapter(Snapshot)


def encode(snapshot: Snapshot) -> bytes:
    """The same snapshot always gives the same bytes."""
    return _SNAPSHOT.dump_json(snapshot)


def decode(data: bytes) -> Snapshot:
    """The inverse. Raises ValueError."""
    try:
        return _SNAPSHOT.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"not a snapshot: {place}: {first['msg']}") from None


def version(data: bytes) -> str:
    """Names an encoded snapshot by its content: a controller that was restarted, or another one,
    gives the same state the same version."""
    return blake2b(data, digest_size=12).hexdigest()
