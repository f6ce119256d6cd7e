"""A request as a curl command has it, such as browsers copy: pure."""

from __future__ import annotations

import re
import shlex
from base64 import b64encode
from collections.abc import Iterator
from urllib.parse import unquote

from stickyproxy.base.errors import StickyproxyError
from stickyproxy.base.text import shown
from stickyproxy.control.report import Json

_SENDS_BODY = frozenset(
    (
        *("-d", "--data", "--data-raw", "--data-binary", "--data-ascii", "--data-urlencode"),
        *("--json", "-F", "--form"),
    )
)
_WRITTEN_OUT = _SENDS_BODY - {"-F", "--form", "--data-urlencode"}
"""Those of them whose values are sent as they are, joined by ``&``."""
_DOES_NOT_MATTER = frozenset(
    (
        *("-o", "--output", "-m", "--max-time", "--connect-timeout", "--resolve", "--connect-to"),
        *("-c", "--cookie-jar", "--cacert", "--capath", "-E", "--cert", "--key", "-w"),
        *("--write-out", "--interface", "--retry", "-x", "--proxy", "--unix-socket", "--ciphers"),
        *("-D", "--dump-header", "--limit-rate", "--noproxy", "-T"),
        "--upload-file",
    )
)
"""Options with a value that says nothing of where a request goes."""
_MATTERS = frozenset(
    (
        *("-H", "--header", "-b", "--cookie", "-X", "--request", "-A", "--user-agent", "-e"),
        *("--referer", "--url", "-u", "--user"),
    )
)
_TAKES_VALUE = _SENDS_BODY | _DOES_NOT_MATTER | _MATTERS
_SHORT_WITH_VALUE = frozenset(option[1] for option in _TAKES_VALUE if option[1] != "-")


def question(command: str) -> Json:
    """The question about the request that the command sends, as ``control.questions`` takes it.
    Raises StickyproxyError."""
    fields: list[list[str]] = []
    method, url = "", ""
    has_body, head, query = False, False, False
    pieces: list[str] = []
    for option, value in _options(_words(command)):
        match option:
            case "" | "--url":
                if url:
                    raise StickyproxyError(f"there are two URLs, {url} and {value}: leave one out")
                url = value
            case "-H" | "--header":
                name, colon, text = value.partition(":")
                if colon and text.strip():  # curl leaves empty ones out
                    fields.append([name.strip(), text.strip()])
            case "-b" | "--cookie":
                if "=" not in value:
                    raise StickyproxyError(
                        f"the cookies are in the file {shown(value)}: write them as name=value"
                    )
                fields.append(["Cookie", value])
            case "-A" | "--user-agent":
                fields.append(["User-Agent", value])
            case "-e" | "--referer":
                fields.append(["Referer", value])
            case "-X" | "--request":
                method = value
            case "-I" | "--head":
                head = True
            case "-G" | "--get":
                query = True
            case "-u" | "--user":
                fields.append(_credentials(value))
            case each if each in _SENDS_BODY:
                has_body = True
                if each in _WRITTEN_OUT and (each == "--data-raw" or not value.startswith("@")):
                    pieces.append(value)
    if not url:
        raise StickyproxyError("the curl command has no URL")
    if not method:
        method = "HEAD" if head else "POST" if has_body and not query else "GET"
    asked = {**of_url(url, fields), "method": method}
    if pieces and not query:
        asked["body"] = len("&".join(pieces).encode())
    return asked


def of_url(url: str, fields: list[list[str]]) -> Json:
    """The question about a URL, whose scheme may be missing. A Host among the fields counts, and
    not the URL's. Raises StickyproxyError."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "http", url
    if scheme.lower() not in ("http", "https"):
        raise StickyproxyError(f"{shown(url)} is no URL of http or https")
    rest = rest.partition("#")[0]
    end = next((at for at, letter in enumerate(rest) if letter in "/?"), len(rest))
    authority, path = rest[:end], rest[end:]
    user, at, authority = authority.rpartition("@")
    if at and not any(name.lower() == "authorization" for name, _ in fields):
        fields = [*fields, _credentials(unquote(user))]
    hosts = [value for name, value in fields if name.lower() == "host"]
    return {
        "host": hosts[0] if hosts else authority,
        "path": path if path.startswith("/") else f"/{path}",
        "headers": [each for each in fields if each[0].lower() != "host"],
        "secure": scheme.lower() == "https",
    }


def _credentials(user: str) -> list[str]:
    """The field that shows a name and a password, ``name:password``."""
    return ["Authorization", f"Basic {b64encode(user.encode()).decode()}"]


def _words(command: str) -> list[str]:
    """Raises StickyproxyError."""
    ansi = re.compile(r"(?<!\S)\$'((?:[^'\\]|\\.)*)'")  # browsers quote what has a ! in it so
    try:
        words = shlex.split(ansi.sub(_unquoted, command.replace("\\\n", " ")))
    except ValueError as error:
        raise StickyproxyError(f"the curl command cannot be read: {error}") from error
    if not words or words[0].rpartition("/")[2] != "curl":
        raise StickyproxyError("that is no curl command: begin with curl")
    return words[1:]


def _unquoted(match: re.Match[str]) -> str:
    escaped = match[1].encode("ascii", "backslashreplace")
    return shlex.quote(escaped.decode("unicode_escape"))


def _options(words: list[str]) -> Iterator[tuple[str, str]]:
    """Options and their values; with no name, what is no option. Raises StickyproxyError."""
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word == "-":
            yield "", word
            continue
        names, value = [word], ""
        if not word.startswith("--"):  # -sSXPOST is -s -S -X POST
            names = []
            for at, letter in enumerate(word[1:], 1):
                names.append(f"-{letter}")
                if letter in _SHORT_WITH_VALUE:
                    value = word[at + 1 :]
                    break
        if names[-1] in _TAKES_VALUE and not value:
            try:
                value = next(rest)
            except StopIteration:
                raise StickyproxyError(f"{names[-1]} of the curl command has no value") from None
        for name in names[:-1]:
            yield name, ""
        yield names[-1], value
