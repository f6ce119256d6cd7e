"""The options of a service: one validator for ``[[services]]`` and for ``com.docker.lb.*`` labels.

Values arrive as TOML types or as label text (``"true"``, ``"a.example, b.example"``, ``"60s"``) and
leave as the types of ``ServiceSpec``. Every parser here is a pure function that raises ValueError
with a sentence naming the value and the remedy; ``explain`` turns what pydantic collected into such
sentences.

What ends up in a header or a cookie is printable ASCII without separators by the time it leaves
this file: nothing downstream has to escape it.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Annotated
from urllib.parse import quote as percent_encode

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from stickyproxy.base.addresses import bad_host, canonical_host, is_ipv6
from stickyproxy.base.text import shown
from stickyproxy.model.service import EndpointSpec, ServiceSpec

Location = tuple[int | str, ...]

# --- words for messages ---------------------------------------------------------------------


def nearest(word: str, known: Collection[str]) -> str | None:
    """The known word that ``word`` most likely stands for, None if there is none close."""
    matches = difflib.get_close_matches(word.lower(), known, n=1)
    return matches[0] if matches else None


def unknown_key(key: str, known: Collection[str]) -> str:
    """The message for a key nobody knows."""
    guess = nearest(key, known)
    hint = f'did you mean "{guess}"?' if guess else f"known: {', '.join(known)}"
    return f"unknown key {shown(key)} ({hint})"


def explain(
    error: ValidationError, known: Callable[[Location], Collection[str]]
) -> Iterator[tuple[Location, str]]:
    """Every problem in ``error`` as (location, reason). ``known`` gives the keys of the table at a
    location, for the nearest one to an unknown key."""
    for detail in error.errors(include_url=False):
        location = detail["loc"]
        if detail["type"] == "extra_forbidden":
            yield location, unknown_key(str(location[-1]), known(location[:-1]))
        else:
            context = detail.get("ctx", {})
            yield location, _reason(detail["type"], detail["input"], context) or detail["msg"]


_TYPE_ERRORS = {
    "string_type": "is not text: write it in quotes",
    "string_unicode": "is not valid Unicode: write it in ASCII",
    "bool_type": "is neither true nor false: write one of them, without quotes",
    "int_type": "is not a whole number: write it in digits, without quotes",
    "tuple_type": "is not a list: write it in [brackets]",
    "model_type": "is not a table: write its keys as key = value",
}


def _reason(kind: str, value: object, context: Mapping[str, object]) -> str | None:
    """Our words for a kind of pydantic error; None where we have none."""
    match kind, value:
        case "value_error", _:
            return str(context["error"])
        case "missing", _:
            return "is required"
        case "tuple_type", dict():
            return "is one table where a list belongs: tables of a list have [[double brackets]]"
        case "model_type", list():
            return "is a list where one table belongs: a single table has [single brackets]"
        case "literal_error", _:
            expected = str(context["expected"]).replace("'", '"')
            return f"{shown(value)} is not known: write {expected}"
        case "greater_than_equal", _:
            return f"{shown(value)} is too small: write at least {context['ge']}"
        case "less_than_equal", _:
            return f"{shown(value)} is too large: write at most {context['le']}"
        case _:
            return f"{shown(value)} {_TYPE_ERRORS[kind]}" if kind in _TYPE_ERRORS else None


# --- durations ------------------------------------------------------------------------------

_NUMBER = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)"
_DURATION = re.compile(f"(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?(?:{_NUMBER}ms)?")
_UNITS = (Decimal(3600), Decimal(60), Decimal(1), Decimal("0.001"))
_LONGEST = 10 * 365 * 24 * 3600
"""Ten years: what a typing error exceeds, a cookie or a timeout does not."""


def duration(value: object) -> float:
    """Seconds of ``"250ms"``, ``"3s"``, ``"5m"``, ``"2h"``, ``"1m30s"``. A bare number is refused:
    nobody remembers its unit. Raises ValueError."""
    if isinstance(value, str) and value and (match := _DURATION.fullmatch(value)):
        parts = zip(match.groups(), _UNITS, strict=True)
        seconds = float(sum(Decimal(number) * unit for number, unit in parts if number))
        if seconds > _LONGEST:
            raise ValueError(f"{shown(value)} is more than ten years: write a shorter duration")
        return seconds
    number = value if isinstance(value, str) else shown(value)
    if re.fullmatch(_NUMBER, number):
        raise ValueError(f'{shown(value)} has no unit: write "{number}s"')
    raise ValueError(
        f'{shown(value)} is not a duration: write it like "250ms", "3s", "1m30s" or "2h"'
    )


def duration_text(seconds: float) -> str:
    """The text of a duration, to the millisecond: the inverse of ``duration``."""
    rest = round(seconds * 1000)
    text = ""
    for unit, milliseconds in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, milliseconds)
        if count:
            text += f"{count}{unit}"
    return text or "0s"


def timeout(value: object) -> float:
    """A duration in seconds that is more than zero. Raises ValueError."""
    seconds = duration(value)
    if not seconds:
        raise ValueError(f'{shown(value)} would time out at once: write more than zero, e.g. "3s"')
    return seconds


def _cookie_lifetime(value: object) -> float:
    """A duration in whole seconds, which is all that Max-Age can say. Raises ValueError."""
    seconds = duration(value)
    if seconds % 1:
        whole = math.ceil(seconds)
        raise ValueError(f'{shown(value)} is not in whole seconds: write e.g. "{whole}s"')
    return seconds


# --- scalars from labels --------------------------------------------------------------------

# What Go's strconv.ParseBool accepts, since that is what Interlock read its labels with.
_BOOLEANS = dict.fromkeys(("true", "t", "1"), True) | dict.fromkeys(("false", "f", "0"), False)


def boolean(value: object) -> bool:
    """True or false, native or as label text. Raises ValueError."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and (word := value.strip().lower()) in _BOOLEANS:
        return _BOOLEANS[word]
    raise ValueError(f"{shown(value)} is neither true nor false: write one of them")


def port_number(value: object) -> int:
    """A TCP port, native or as label text. Raises ValueError."""
    number = value
    if isinstance(number, str) and re.fullmatch("[0-9]{1,9}", number.strip()):
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 65535:
        raise ValueError(f"{shown(value)} is not a port: write a number from 1 to 65535")
    return number


def _split_by(separator: str) -> BeforeValidator:
    """Lists may come as one label: ``"a, b"``. Empty items are dropped: Interlock's own examples
    end in a separator. What is no text passes as it is."""

    def split(value: object) -> object:
        if not isinstance(value, str):
            return value
        return [item.strip() for item in value.split(separator) if item.strip()]

    return BeforeValidator(split)


# --- names ----------------------------------------------------------------------------------

_AUTHORITY = re.compile(  # the path part swallows whatever else is there, to be shown in a message
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)?(?P<host>\[[^\]]*\]|[^][/?#:]*)"
    r"(?P<port>:[0-9]*)?(?P<path>[/?#].*)?",
    re.DOTALL,
)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 5.6.2, the same as in RFC 6265


def host_name(text: str) -> str:
    """A host as the Host header names it, in canonical form: lower case, no trailing dot, IPv6 in
    brackets; ``*.example.com`` stands for every name below. Raises ValueError."""
    if not text:
        raise ValueError('is empty: write a host name such as "shop.example.com"')
    if text == "*":
        raise ValueError('"*" is not a host name: set default_backend to answer for any host')
    if is_ipv6(text):
        return canonical_host(f"[{text}]")
    parts = _AUTHORITY.fullmatch(text)
    if parts is None:
        raise bad_host(text)
    surplus = [shown(part) for part in parts.group("scheme", "port", "path") if part]
    if surplus:
        raise ValueError(f"{shown(text)} is more than a host name: remove {' and '.join(surplus)}")
    if text.startswith("*."):
        return "*." + canonical_host(text[2:])
    return canonical_host(text)


def _token(text: str) -> str:
    """A cookie's or header field's name. Raises ValueError."""
    if not text:
        raise ValueError("is empty: write a name, or remove the key")
    if not _TOKEN.fullmatch(text):
        raise ValueError(
            f"{shown(text)} is not a name HTTP allows: use letters, digits and any of "
            "!#$%&'*+-.^_`|~"
        )
    return text


def _query_name(text: str) -> str:
    """A query parameter's name as it stands in a URL. Raises ValueError."""
    if not text:
        raise ValueError("is empty: write a parameter's name, or remove the key")
    _refuse_characters(text, "&=#", "a query parameter's name")
    return text


# --- paths and URLs -------------------------------------------------------------------------


def _refuse_characters(text: str, refused: str, what: str) -> None:
    """Raises ValueError if ``text`` holds one of ``refused`` or anything but visible ASCII."""
    for character in text:
        if character in refused or not "!" <= character <= "~":
            encoded = percent_encode(character, safe="", errors="replace")
            raise ValueError(
                f"{shown(text)} holds {shown(character)}, which {what} cannot: "
                f'remove it or write it as "{encoded}"'
            )


def _url_path(text: str) -> str:
    """The path of a URL. Raises ValueError."""
    if not text.startswith("/"):
        raise ValueError(f'{shown(text)} does not start with "/": write {shown("/" + text)}')
    _refuse_characters(text, "?#", "a path")
    return text


def _cookie_path(text: str) -> str:
    """A path that may stand in a cookie's Path attribute. Raises ValueError."""
    _refuse_characters(_url_path(text), ";", "a cookie's path")
    return text


def _context_root(text: str) -> str:
    """A path prefix without trailing slashes, except for ``/``. Raises ValueError."""
    return _cookie_path(text).rstrip("/") or "/"  # pins carry it as their Path


def _redirect(value: object) -> tuple[str, str]:
    """(source host, destination URL without a trailing slash) of ``"src,dst"`` or ``[src, dst]``.
    Raises ValueError."""
    pair = value.split(",", 1) if isinstance(value, str) else value
    match pair:
        case [str(source), str(destination)]:
            return _redirect_source(source.strip()), _redirect_destination(destination.strip())
        case _:
            raise ValueError(
                f'{shown(value)} is not a redirect: write it like "old.example,https://new.example"'
            )


def _redirect_source(text: str) -> str:
    """A host; Interlock's own examples write it as a URL, so a scheme and final slash may be there.
    Raises ValueError."""
    return host_name(re.sub("^https?://", "", text, flags=re.IGNORECASE).removesuffix("/"))


def _redirect_destination(text: str) -> str:
    """An absolute URL that a request target can be appended to. Raises ValueError."""
    parts = _AUTHORITY.fullmatch(text)
    if parts is None or (parts["scheme"] or "").lower() not in ("http://", "https://"):
        raise ValueError(
            f'{shown(text)} is not a URL to redirect to: write it like "https://new.example"'
        )
    canonical_host(parts["host"])
    if parts["port"]:
        port_number(parts["port"][1:])
    _refuse_characters(text, "?#", "a destination, to which the request's path is appended,")
    return text.removesuffix("/")


# --- the options ----------------------------------------------------------------------------

Boolean = Annotated[bool, PlainValidator(boolean)]
Port = Annotated[int, PlainValidator(port_number)]
Timeout = Annotated[float, PlainValidator(timeout)]
HostName = Annotated[str, AfterValidator(host_name)]
Token = Annotated[str, AfterValidator(_token)]
QueryName = Annotated[str, AfterValidator(_query_name)]
UrlPath = Annotated[str, AfterValidator(_url_path)]
ContextRoot = Annotated[str, AfterValidator(_context_root)]
CookiePath = Annotated[str, AfterValidator(_cookie_path)]
CookieLifetime = Annotated[float, PlainValidator(_cookie_lifetime)]
Redirect = Annotated[tuple[str, str], PlainValidator(_redirect)]

_KEYED = ("hash_cookie", "hash_header", "hash_query", "hash_source_ip")
"""Keys of the consistent hash: one at most, and no other affinity beside it. A sticky cookie and
``ip_hash`` may stand together: the address decides where the cookie is absent."""


Hosts = Annotated[tuple[HostName, ...], _split_by(",")]


class ServiceOptions(BaseModel):
    """How a service is published. The names are those of ``com.docker.lb.*`` labels.

    ``model_validate`` raises pydantic's ValidationError with every problem found; ``explain`` puts
    it in words. Checks across keys are field validators that look at keys declared earlier
    (``info.data``, which lacks those that failed), not model validators: so they are reported along
    with all other problems. Hence the order of the keys below counts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    default_backend: Boolean = False
    hosts: Hosts = Field((), validate_default=True)
    port: Port | None = None
    context_root: ContextRoot = "/"
    context_root_rewrite: Boolean = False
    sticky_session_cookie: Token | None = None
    ip_hash: Boolean = False
    hash_cookie: Token | None = None
    hash_cookie_ttl: CookieLifetime | None = None
    hash_cookie_path: CookiePath | None = None
    hash_header: Token | None = None
    hash_query: QueryName | None = None
    hash_source_ip: Boolean = False
    websocket_endpoints: Annotated[tuple[UrlPath, ...], _split_by(",")] | None = None
    redirects: Annotated[tuple[Redirect, ...], _split_by(";")] = ()

    @field_validator("hosts")
    @classmethod
    def _some_host(cls, hosts: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not hosts and info.data.get("default_backend") is False:
            raise ValueError(
                "is required: name at least one host, or set default_backend to answer for any"
            )
        return tuple(dict.fromkeys(hosts))

    @field_validator(*_KEYED)
    @classmethod
    def _alone(cls, value: object, info: ValidationInfo) -> object:
        for other in ("sticky_session_cookie", "ip_hash", *_KEYED):
            if value and info.data.get(other):
                raise ValueError(f"cannot be combined with {other}: remove one of the two")
        return value

    @field_validator("hash_cookie_ttl", "hash_cookie_path")
    @classmethod
    def _needs_hash_cookie(cls, value: object, info: ValidationInfo) -> object:
        if "hash_cookie" in info.data and info.data["hash_cookie"] is None:
            raise ValueError("has no meaning without hash_cookie: set that too, or remove this key")
        return value

    def spec(self, name: str, endpoints: Iterable[EndpointSpec]) -> ServiceSpec:
        """The service ``name`` with these options and these endpoints."""
        return ServiceSpec(
            name=name,
            hosts=self.hosts,
            endpoints=tuple(endpoints),
            context_root=self.context_root,
            context_root_rewrite=self.context_root_rewrite,
            sticky_session_cookie=self.sticky_session_cookie,
            ip_hash=self.ip_hash,
            hash_cookie=self.hash_cookie,
            hash_cookie_ttl=self.hash_cookie_ttl,
            hash_cookie_path=self.hash_cookie_path,
            hash_header=self.hash_header,
            hash_query=self.hash_query,
            hash_source_ip=self.hash_source_ip,
            websocket_endpoints=self.websocket_endpoints,
            redirects=self.redirects,
            default_backend=self.default_backend,
        )
