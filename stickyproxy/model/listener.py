"""What a listener is to be. Frozen and picklable: it goes to a worker together with its socket.

What is configured for a single listener is a field here, None when unset; the accept loop
(``dataplane.downstream.accept``) has it at hand for each connection.
"""

from __future__ import annotations

from dataclasses import dataclass

from stickyproxy.base.addresses import Address


@dataclass(frozen=True, slots=True)
class ListenerSpec:
    """A socket clients connect to, and how they are served there."""

    address: Address
    """Port 0 means any free one."""
