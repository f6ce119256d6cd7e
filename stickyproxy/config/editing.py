"""How messages are changed on their way, as a service is configured. Each function takes a TOML
value or the text of a label, and raises ValueError with a sentence that names value and remedy."""

from __future__ import annotations

import re
from collections.abc import Sequence

from stickyproxy.base.text import shown
from stickyproxy.base.values import text, token
from stickyproxy.model.service import CODINGS

OURS = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"),
        *("upgrade", "content-length", "host", "cookie", "set-cookie", "date", "proxy"),
        *("forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"),
        *("x-forwarded-port", "x-real-ip", "x-request-id", "http2-settings"),
        *("client-cert", "client-cert-chain", "x-client-cert-subject"),
        *("x-client-cert-fingerprint", "x-proxy-id", "x-server-info", "x-upstream-addr"),
        *("x-upstream-response-time", "strict-transport-security", "x-sticky-handover"),
    }
)
"""Fields that frame messages, or that the proxy has something to say about itself."""

_VALUE = re.compile(r"[\t\x20-\x7e]*")


def field_name(value: object) -> str:
    """Raises ValueError."""
    name = token(value)
    if name.lower().replace("_", "-") in OURS:
        raise ValueError(f"{shown(name)} is the proxy's own affair: remove it")
    return name


def field_line(value: object) -> tuple[str, str]:
    """(name, value). Raises ValueError."""
    name, colon, said = text(value).partition(":")
    if not colon:
        raise ValueError(f'{shown(value)} is no header field: write it like "X-Name: value"')
    said = said.strip(" \t")
    if not _VALUE.fullmatch(said):
        raise ValueError(
            f"{shown(said)} holds a character that no value may have: write it in ASCII"
        )
    return field_name(name), said


def compression(value: object) -> tuple[str, ...]:
    """The content codings that responses may get. Raises ValueError."""
    if isinstance(value, bool):
        return CODINGS if value else ()
    if isinstance(value, str):
        words: Sequence[object] = [word for word in value.lower().split(",") if word.strip()]
    elif isinstance(value, list | tuple):
        words = value
    else:
        words = [value]
    if words in (["true"], ["false"]):
        return CODINGS if words == ["true"] else ()
    return tuple(dict.fromkeys(_coding(word) for word in words))


def _coding(value: object) -> str:
    coding = value.strip().lower() if isinstance(value, str) else value
    if coding not in CODINGS:
        known = ", ".join(CODINGS[:-1])
        raise ValueError(
            f"{shown(value)} is not known: write true, or some of {known}, {CODINGS[-1]}"
        )
    return str(coding)
