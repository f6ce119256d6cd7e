"""CONTROL: the live page at ``/``: static files, which ask ``/v1/`` for everything they show.

They hold no secrets and are there for everybody who reaches the listener. What the API tells them
has to come in as text: the policy for their content (CSP, https://www.w3.org/TR/CSP3/) lets nothing
run but the script that came with them, and no HTML be made from text (Trusted Types).
"""

from __future__ import annotations

import hashlib
from functools import partial
from importlib import resources

from aiohttp import web

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}

PATHS = frozenset(_FILES)
"""Where the page's files are."""

POLICY = "; ".join(
    (
        *("default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'"),
        *("connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
        *("require-trusted-types-for 'script'", "trusted-types 'none'"),
    )
)

_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # ask each time: the proxy may be another version by now
}


def add_routes(app: web.Application) -> None:
    """Show the page."""
    folder = resources.files("stickyproxy.admin").joinpath("page")
    for path, (name, kind) in _FILES.items():
        body = folder.joinpath(name).read_bytes()
        app.router.add_get(path, partial(_show, body, {**_HEADERS, "Content-Type": kind}))


async def _show(body: bytes, headers: dict[str, str], request: web.Request) -> web.Response:
    etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    # RFC 9110 section 13.1.2: a list of tags, weak ones count; a proxy may have weakened ours.
    if etag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers={**headers, "ETag": etag})
    return web.Response(body=body, headers={**headers, "ETag": etag})
