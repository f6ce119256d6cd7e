"""CONTROL: who may look, and who may change something, through the admin listener.

A browser on the same machine reaches it too, and does what any page tells it. So, besides tokens:

- ``Host`` has to be an address or ``localhost`` where no token is asked for: a name that was made
  to lead here (DNS rebinding) is neither, and its page would read what it gets;
- a POST has to have a body of JSON: a page of another origin cannot send one without asking first
  (a preflight of CORS, https://fetch.spec.whatwg.org/#http-cors-protocol), and is not answered;
- an ``Origin`` (RFC 6454 section 7), if there is one, has to be our own.

There are two tokens. Who has the one for reading may look; who has the one for changes may do both.
Where others than this machine come in, either is needed. On a listener for this machine alone, what
has no token is open.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from stickyproxy.base.addresses import Address

_OPEN = "the admin listener is open to more than this machine, so that"
_LOCAL = "or let it listen on 127.0.0.1 or a unix socket"
_NEEDED = f"{_OPEN} changes take a token: set change_token_file in [admin], {_LOCAL}"
_NEEDED_TO_READ = f"{_OPEN} /v1/ takes a token: set read_token_file in [admin], {_LOCAL}"

Refusal = tuple[int, str]
"""Status and sentence."""


class Access:
    """The rules for one listener."""

    def __init__(
        self,
        address: Address | None,
        token: bytes = b"",
        *,
        read_token: bytes = b"",
        reading: bool = False,
    ) -> None:
        """``address``: where the listener is; None: there is none. ``token``, for changes, and
        ``read_token``: empty: none. ``reading``: it takes the former too, as on the listener of a
        controller."""
        self._is_socket = address is not None and address.path is not None
        self._is_local = self._is_socket or (address is not None and _is_loopback(address.host))
        self._changes = b"Bearer " + token if token else b""
        self._reads = b"Bearer " + read_token if read_token else b""
        self._reading = reading or bool(read_token)

    def lacking(self) -> Iterator[str]:
        """What nobody may do here, for want of a token, and what to do."""
        if self._is_local or self._changes:
            return
        if not self._reading:
            yield _NEEDED_TO_READ
        yield _NEEDED

    def refusal_to_show(self, fields: Mapping[str, str]) -> Refusal | None:
        """Why who sends these header fields is shown nothing of ``/v1/``, as status and sentence;
        None: it is. Names are looked up as they are usually written."""
        refused = self._wrong_token(fields, self._reads, self._changes)
        if refused is None or self._reading:
            return refused
        if not self._is_local:
            return refused if self._changes else (403, _NEEDED_TO_READ)
        return self._foreign_host(fields)

    def refusal_to_show_pages(self, fields: Mapping[str, str]) -> Refusal | None:
        """The same for pages that were there before there was a token to be had."""
        if self._reads:
            return self._wrong_token(fields, self._reads, self._changes)
        return self._foreign_host(fields) if self._is_local else None

    def refusal_to_ask(self, fields: Mapping[str, str]) -> Refusal | None:
        """The same for a POST that changes nothing."""
        return self._foreign_page(fields) or self.refusal_to_show(fields)

    def refusal(self, fields: Mapping[str, str]) -> Refusal | None:
        """Why a POST with these header fields may change nothing; None: it may."""
        if refused := self._foreign_page(fields):
            return refused
        if self._changes:
            return self._wrong_token(fields, self._changes)
        if not self._is_local:
            return 403, _NEEDED
        return self._foreign_host(fields)

    def _foreign_host(self, fields: Mapping[str, str]) -> Refusal | None:
        if not self._is_socket and not _is_address(fields.get("Host", "")):
            return 403, "Host has to be an IP address or localhost where there is no token"
        return None

    def _foreign_page(self, fields: Mapping[str, str]) -> Refusal | None:
        kind = fields.get("Content-Type", "").partition(";")[0]
        if kind.strip().lower() != "application/json":
            return 415, "the body has to be JSON: send Content-Type: application/json"
        origin, host = fields.get("Origin"), fields.get("Host", "")
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            return 403, "a page of another origin may change nothing"
        return None

    def _wrong_token(self, fields: Mapping[str, str], *tokens: bytes) -> Refusal | None:
        """``tokens``: as they are shown; any will do that is not empty."""
        shown = fields.get("Authorization", "").encode("utf-8", "surrogateescape")
        # All are compared, so that the time says nothing about which of them it is.
        found = False
        for token in tokens:
            found |= hmac.compare_digest(shown, token) and bool(token)
        if found:
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
