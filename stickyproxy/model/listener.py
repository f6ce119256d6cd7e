"""The specification of a listener. Frozen and picklable: workers receive it with its socket.

What is configured for a single listener is a field here, None when unset; the accept loop
(``dataplane.downstream.accept``) reads it for each connection.
"""

from __future__ import annotations

from dataclasses import dataclass

from stickyproxy.base.addresses import Address
from stickyproxy.model.tls import ListenerTls


@dataclass(frozen=True, slots=True)
class ListenerSpec:
    """A socket clients connect to, and how they are served there."""

    address: Address
    """Port 0 means any free one."""
    tls: ListenerTls | None = None
    """None: clients speak in the clear."""
    redirect_to_https: int | None = None
    """Requests are answered with a redirect to this port; None: they are served."""
    proxy_protocol: bool = False
    """Trusted peers begin each connection with a header that says for whom it is."""
