"""The specification of a listener. Frozen and picklable: workers receive it with its socket.

What is configured for a single listener is a field here, None when unset; the accept loop
(``dataplane.downstream.accept``) reads it for each connection.
"""

from __future__ import annotations

from dataclasses import dataclass

from stickyproxy.base.addresses import Address


@dataclass(frozen=True, slots=True)
class ListenerSpec:
    """A socket clients connect to, and how they are served there."""

    address: Address
    """Port 0 means any free one."""
