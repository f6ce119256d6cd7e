"""CONTROL: who may change something through the admin listener.

Whoever reaches it may look. To change something takes more, since a browser on the same machine
reaches it too, and does what any page tells it:

- POST alone, with a body of JSON: a page of another origin cannot send one without asking first
  (a preflight of CORS, https://fetch.spec.whatwg.org/#http-cors-protocol), and is not answered;
- an ``Origin`` (RFC 6454 section 7), if there is one, has to be our own;
- ``Host`` has to be an address or ``localhost`` where there is no token: a name that was made to
  lead here (DNS rebinding) is neither;
- a token, if one is configured. There has to be one where others than this machine come in.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from stickyproxy.base.addresses import Address

_NEEDED = (
    "the admin listener is open to more than this machine, so that changes take a token: set "
    "change_token_file in [admin], or let it listen on 127.0.0.1 or a unix socket"
)


class Access:
    """The rules for one listener."""

    def __init__(
        self, address: Address | None, token: bytes = b"", *, reading: bool = False
    ) -> None:
        """``address``: where the listener is; None: there is none. ``token``: empty: none.
        ``reading``: it takes the token too, as on the listener of a controller."""
        self._reading = reading
        self._is_socket = address is not None and address.path is not None
        self._is_local = self._is_socket or (address is not None and _is_loopback(address.host))
        self._token = token

    def refusal_to_show(self, fields: Mapping[str, str]) -> tuple[int, str] | None:
        """Why a GET with these header fields is shown nothing; None: it is."""
        return self._wrong_token(fields) if self._reading else None

    def refusal(self, fields: Mapping[str, str]) -> tuple[int, str] | None:
        """Why a POST with these header fields may change nothing, as status and sentence; None: it
        may. Names are looked up as they are usually written."""
        host = fields.get("Host", "")
        kind = fields.get("Content-Type", "").partition(";")[0]
        if kind.strip().lower() != "application/json":
            return 415, "the body has to be JSON: send Content-Type: application/json"
        origin = fields.get("Origin")
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            return 403, "a page of another origin may change nothing"
        if self._token:
            return self._wrong_token(fields)
        if not self._is_local:
            return 403, _NEEDED
        if not self._is_socket and not _is_address(host):
            return 403, "Host has to be an IP address or localhost where there is no token"
        return None

    def _wrong_token(self, fields: Mapping[str, str]) -> tuple[int, str] | None:
        shown = fields.get("Authorization", "").encode("utf-8", "surrogateescape")
        if hmac.compare_digest(shown, b"Bearer " + self._token):
            return None
        return 401, "the token is missing or wrong: send Authorization: Bearer TOKEN"


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


def _is_address(authority: str) -> bool:
    """Whether the host of this authority is an IP address or localhost."""
    try:
        host = urlsplit(f"//{authority}").hostname or ""
        return host == "localhost" or bool(ip_address(host))
    except ValueError:
        return False
