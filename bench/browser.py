"""A browser, as far as stickiness goes: a cookie jar (RFC 6265) and one request at a time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.load import HOST

TIMEOUT = 15.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the proxy, and through it the application, said."""

    status: int
    endpoint: str = ""
    """Which application responded; empty if it was the proxy itself, or none."""
    got: tuple[str, ...] = ()
    """The session cookies that the application received."""
    issued: str = ""
    """The session that the application set in this response."""
    knows: bool = False
    """The application found its own session in the request."""
    set_cookies: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        return self.status != 200

    @property
    def proxy_set_cookie(self) -> bool:
        """A cookie was set, or changed, that is not the application's."""
        values = [one.partition(";")[0].partition("=")[2] for one in self.set_cookies]
        return any(value != self.issued for value in values)


@dataclass(slots=True)
class Browser:
    """One client, with an address of its own within 127.0.0.0/8 if asked for."""

    address: str = ""
    jar: dict[tuple[str, str], str] = field(default_factory=dict)
    """Value by name and path."""

    async def get(self, port: int, path: str = "/") -> Answer:
        """One request on a new connection; the cookies of the response are kept."""
        try:
            async with asyncio.timeout(TIMEOUT):
                head = await self._exchange(port, path)
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            return Answer(0)
        answer = parse_answer(head)
        for value in answer.set_cookies:
            self.keep(value, path)
        return answer

    async def _exchange(self, port: int, path: str) -> bytes:
        local = (self.address, 0) if self.address else None
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=local)
        try:
            cookie = self.cookies_for(path)
            lines = [f"GET {path} HTTP/1.1", f"Host: {HOST}", "Connection: close"]
            lines += [f"Cookie: {cookie}"] if cookie else []
            writer.write("\r\n".join([*lines, "", ""]).encode())
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.read()
            return head
        finally:
            writer.transport.abort()

    def keep(self, set_cookie: str, request_path: str) -> None:
        """Take a Set-Cookie value; one that has expired is forgotten."""
        pair, *attributes = [part.strip() for part in set_cookie.split(";")]
        name, _, value = pair.partition("=")
        given = {key.lower(): text for key, _, text in (one.partition("=") for one in attributes)}
        path = given.get("path", "")
        key = (name, path if path.startswith("/") else _default_path(request_path))
        if given.get("max-age", "") == "0" or "1970" in given.get("expires", ""):
            self.jar.pop(key, None)
        else:
            self.jar[key] = value

    def cookies_for(self, path: str) -> str:
        """The Cookie header for a path: longer paths first."""
        matching = [key for key in self.jar if _path_matches(path, key[1])]
        matching.sort(key=lambda key: -len(key[1]))
        return "; ".join(f"{name}={self.jar[name, where]}" for name, where in matching)


def _default_path(request_path: str) -> str:
    return request_path.rpartition("/")[0] or "/"


def _path_matches(path: str, cookie_path: str) -> bool:
    if path == cookie_path:
        return True
    return path.startswith(cookie_path) and (
        cookie_path.endswith("/") or path[len(cookie_path)] == "/"
    )


def parse_answer(head: bytes) -> Answer:
    """Read the head of a response of ``apps.App``, or of a proxy that had none to ask."""
    lines = head.decode("latin-1").split("\r\n")
    fields: dict[str, list[str]] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        fields.setdefault(name.lower(), []).append(value.strip())
    return Answer(
        status=int(lines[0].split()[1]),
        endpoint=_only(fields.get("x-endpoint", ())),
        got=tuple(value for value in _only(fields.get("x-got", ())).split(",") if value),
        issued=_only(fields.get("x-issued", ())),
        knows=_only(fields.get("x-knows", ())) == "yes",
        set_cookies=tuple(fields.get("set-cookie", ())),
    )


def _only(values: Sequence[str]) -> str:
    return values[0] if values else ""


def sessions(head: str) -> list[str]:
    """The values of all cookies called ``session`` in a request head."""
    found = []
    for line in re.findall(r"(?im)^cookie:([^\r\n]*)", head):
        for pair in line.split(";"):
            name, _, value = pair.strip().partition("=")
            if name == "session":
                found.append(value)
    return found
