"""Pages that a service has for the proxy's own error responses, as they are configured. Each
function raises ValueError that says what is wrong and how to fix it."""

from __future__ import annotations

from typing import NamedTuple

from stickyproxy.base.text import shown
from stickyproxy.base.values import text
from stickyproxy.config.values import visible_text

_MOST = 64 << 10  # bytes: it is sent whole, and travels from controllers to proxies


_TOO_LONG = f"is longer than {_MOST >> 10} KiB: write a shorter page"


class PageFile(NamedTuple):
    """A page that was read."""

    path: str
    """Empty: it was no file."""
    text: str


def page_file(value: object) -> PageFile:
    """A file with HTML. Raises ValueError."""
    path = visible_text(value, "/etc/stickyproxy/error.html")
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST + 1)
    except OSError as error:
        raise ValueError(
            f"{shown(path)} cannot be read ({error.strerror}): name a readable file"
        ) from None
    try:
        if len(content) > _MOST:
            raise ValueError(_TOO_LONG)
        return PageFile(path, _page(content.decode()))
    except UnicodeDecodeError:
        raise ValueError(f"{shown(path)} is not in UTF-8: write it so") from None
    except ValueError as error:
        raise ValueError(f"{shown(path)} {error}") from None


def page_text(value: object) -> PageFile:
    """The HTML itself: a label may not name a file of ours. Raises ValueError."""
    return PageFile("", _page(text(value)))


def _page(written: str) -> str:
    if not written.strip():
        raise ValueError("is empty: write a page in HTML")
    if len(written.encode()) > _MOST:
        raise ValueError(_TOO_LONG)
    return written
