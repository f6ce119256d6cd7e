"""Questions about a routing table, in JSON, and their answers: what would come of a request, and
what a change of endpoints would do to sessions.

Whoever has a table answers them: a running proxy on its admin listener, or the command line by a
file or an engine. The command line prints the answers of both alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from ipaddress import ip_address
from typing import Any

from stickyproxy.base.text import shown
from stickyproxy.control.report import Json
from stickyproxy.control.simulation import (
    PlannedChange,
    Result,
    Simulation,
    simulations,
    visitors,
)
from stickyproxy.routing.endpoint import Affinity, Endpoint, Evidence, Facts, Meaning
from stickyproxy.routing.explain import Choice, Explanation, Fate, Question
from stickyproxy.routing.table import RoutingTable

Explain = Callable[[RoutingTable, Question], Explanation]
"""``routing.explain.explain`` with the proxies that are trusted."""

SHOWN = 20
"""Endpoints that a line shows, and moves that an answer shows."""

SESSIONS = 10_000
"""Sessions of a simulation, if nobody says how many."""
MOST_SESSIONS = 100_000
MOST_ENDPOINTS = 1000
MOST_WORK = 10_000_000
"""Sessions times endpoints: it takes a second."""


class Questions:
    """Answers questions by the table of the moment."""

    def __init__(self, table: Callable[[], RoutingTable], explain: Explain) -> None:
        """``table`` returns that of the moment."""
        self.table = table
        """What is asked."""
        self._explain = explain

    def explain(self, asked: object) -> Json:
        """What would come of a request. Raises ValueError for what is no question."""
        return self.explanation(asked)()

    def explanation(self, asked: object) -> Callable[[], Json]:
        """The same in two steps. The second one may have a password to check, which takes a
        twentieth of a second, and may be taken in another thread. Raises ValueError."""
        said = self._explain(self.table(), question_of(asked))
        return lambda: answer(said.checked())

    def simulate(self, asked: object) -> Json:
        """What a change would do. Raises ValueError for what is no change."""
        return self.simulation(asked)()

    def simulation(self, asked: object) -> Callable[[], Json]:
        """The same in two steps. The second one takes its time, a second for 100,000 sessions, and
        may be taken in another thread. Raises ValueError."""
        change, sessions = change_of(asked)
        return partial(simulated, simulations(self.table(), change), sessions)


# --- from JSON ----------------------------------------------------------------------------------

_KEYS = ("host", "path", "method", "headers", "client", "secure", "body")
MOST_BYTES = (1 << 63) - 1
"""Of a body."""


def question_of(asked: object) -> Question:
    """The question in a JSON object: ``host`` alone is required. Raises ValueError with a sentence
    that names what is wrong."""
    if not isinstance(asked, Mapping):
        raise ValueError('a question is an object: write {"host": "demo.local"}')
    for key in asked:
        if key not in _KEYS:
            raise ValueError(f"{shown(key)} is unknown: write one of {', '.join(_KEYS)}")
    secure = asked.get("secure", False)
    if not isinstance(secure, bool):
        raise ValueError(f"secure is {shown(secure)}: write true or false")
    try:
        return Question(
            host=_text(asked, "host").encode(),
            target=_text(asked, "path", "/").encode(),
            method=_text(asked, "method", "GET"),
            fields=tuple(_fields(asked.get("headers", []))),
            client=_client(_text(asked, "client", "127.0.0.1")),
            secure=secure,
            body=_whole_number("body", asked.get("body", 0), 0, MOST_BYTES),
        )
    except UnicodeEncodeError as error:  # half a surrogate pair
        raise ValueError("what is asked about is not valid text: write UTF-8") from error


def _text(asked: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = asked.get(key, default)
    if not isinstance(value, str):
        wrong = "is missing" if value is None else f"is {shown(value)}"
        raise ValueError(f"{key} {wrong}: write a string")
    return value


def _fields(headers: object) -> Iterator[tuple[bytes, bytes]]:
    wrong = 'headers is not a list of pairs: write [["Name", "value"]]'
    if not isinstance(headers, list):
        raise ValueError(wrong)
    for pair in headers:
        match pair:
            case [str(name), str(value)]:
                yield name.encode(), value.strip(" \t").encode()
            case _:
                raise ValueError(wrong)


def _client(address: str) -> str:
    """Empty: it comes over a unix socket."""
    try:
        return address and str(ip_address(address))
    except ValueError as error:
        raise ValueError(f"client is {shown(address)}: write an IP address") from error


_CHANGE_KEYS = ("scale", "remove", "weight", "sessions")


def change_of(asked: object) -> tuple[PlannedChange, int]:
    """The change in a JSON object, and the number of sessions to try it with. Raises ValueError
    with a sentence that names what is wrong."""
    if not isinstance(asked, Mapping):
        raise ValueError('a change is an object: write {"scale": {"demo": 10}}')
    for key in asked:
        if key not in _CHANGE_KEYS:
            raise ValueError(f"{shown(key)} is unknown: write one of {', '.join(_CHANGE_KEYS)}")
    scale, remove = asked.get("scale", {}), asked.get("remove", [])
    if not isinstance(scale, Mapping):
        raise ValueError('scale is not an object: write {"demo": 10}')
    for name, count in scale.items():
        _whole_number(f"scale of {shown(name)}", count, 0, MOST_ENDPOINTS)
    if not (isinstance(remove, list) and all(isinstance(each, str) for each in remove)):
        raise ValueError("remove is not a list of strings: write the ids of endpoints")
    weight = asked.get("weight", {})
    if not isinstance(weight, Mapping):
        raise ValueError('weight is not an object: write {"demo/t1": 0.5}')
    tenths = {name: _tenths(name, share) for name, share in weight.items()}
    if not (scale or remove or weight):
        raise ValueError("nothing is to be changed: write scale, remove or weight")
    sessions = _whole_number("sessions", asked.get("sessions", SESSIONS), 1, MOST_SESSIONS)
    most = max(scale.values(), default=0)
    if sessions * most > MOST_WORK:
        few = MOST_WORK // most
        raise ValueError(f"sessions is {sessions}: for {most} endpoints write {few} at most")
    return PlannedChange(dict(scale), tuple(remove), tenths), sessions


def _tenths(name: object, share: object) -> int:
    """Of a weight. Raises ValueError."""
    if isinstance(share, (int, float)) and not isinstance(share, bool) and 0.1 <= share <= 1:
        return round(10 * share)
    raise ValueError(f"weight of {shown(name)} is {shown(share)}: write a number from 0.1 to 1")


def _whole_number(name: str, value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} is {shown(value)}: write a number from {least} to {most}")
    return value


# --- to JSON ------------------------------------------------------------------------------------


def answer(said: Explanation) -> Json:
    """An explanation, ready for JSON."""
    question, route, cluster, choice = said.question, said.route, said.cluster, said.choice
    return {
        "request": {
            "method": question.method,
            "host": question.host.decode("utf-8", "backslashreplace"),
            "path": question.target.decode("utf-8", "backslashreplace"),
            "client": said.client or question.client,
            "secure": question.secure,
            "body": question.body,
        },
        "fate": said.fate.value,
        "status": said.status or None,
        "why": said.why,
        "route": None if route is None else {"host": route.host, "root": route.root.decode()},
        "service": None if cluster is None else cluster.name,
        "policy": None if cluster is None else cluster.policy.describe(),
        "conditions": [
            {"option": each.option, "said": each.said, "fulfilled": not each.status}
            for each in said.conditions
        ],
        "edits": _edits(said),
        "path_at_endpoint": said.target.decode("utf-8", "backslashreplace") or None,
        "evidence": [_evidence(each, said.owners) for each in said.evidence],
        "affinity": None if choice is None else choice.pick.affinity.value,
        "endpoint": _endpoint(choice.pick.endpoint) if choice and choice.certain else None,
        "by_turns": [] if choice is None or choice.certain else _endpoints(choice),
        "set_cookies": [cookie.decode("latin-1") for cookie in said.cookies]
        if choice and choice.certain
        else [cookie.partition(b"=")[0].decode("latin-1") for cookie in said.cookies],
        "if_it_dies": None
        if said.if_it_dies is None
        else {
            "affinity": said.if_it_dies.pick.affinity.value,
            "endpoints": _endpoints(said.if_it_dies),
        },
    }


def _edits(said: Explanation) -> Json | None:
    """The names of header fields that the service sets and removes: values may be secrets."""
    if said.route is None or said.fate is not Fate.FORWARDED:
        return None
    secure = said.question.secure
    edits = {
        "request": said.route.request_edit,
        "response": said.route.secure_response_edit if secure else said.route.response_edit,
    }
    return {
        whose: {"sets": list(edit.sets), "removes": list(edit.removes)}
        for whose, edit in edits.items()
        if edit is not None
    }


def _evidence(each: Evidence, owners: Mapping[bytes, Endpoint]) -> Json:
    endpoint = each.endpoint or owners.get(each.value.strip(b'"'))
    return {
        "source": each.source,
        "value": each.value.decode("utf-8", "backslashreplace"),
        "meaning": each.meaning.value,
        "decides": each.decides,
        "endpoint": None if endpoint is None else _endpoint(endpoint),
        "slot": each.slot,
    }


def _endpoints(choice: Choice) -> list[Json]:
    return [_endpoint(each) for each in choice.endpoints]


def _endpoint(endpoint: Endpoint) -> Json:
    return {
        "service": endpoint.service,
        "id": endpoint.id,
        "address": endpoint.address,
        "state": endpoint.state.value,
        "why": " and ".join(_reasons(endpoint.facts)),
    }


def _reasons(facts: Facts) -> Iterator[str]:
    """Why the state of an endpoint is what it is; nothing: it is usable."""
    if facts.draining:
        yield "it is being stopped"
    if facts.asked_to_drain:
        yield "an operator drains it"
    if facts.in_maintenance:
        yield "it is in maintenance"
    if facts.ejected:
        yield "it is ejected"
    if facts.unhealthy:
        yield "it fails its checks"


def simulated(prepared: Iterable[Simulation], sessions: int) -> Json:
    """The results of simulations with so many sessions each, ready for JSON."""
    results = [each.run(visitors(each.before.policy, sessions)) for each in prepared]
    return {"sessions": sessions, "services": [_result(each) for each in results]}


def _result(result: Result) -> Json:
    before, after = result.before, result.after
    staying = set(before.endpoints) & set(after.endpoints)

    def row(endpoint: Endpoint, change: str) -> Json:
        return {
            **_endpoint(endpoint),
            "change": None if endpoint in staying else change,
            "before": result.load_before[endpoint],
            "after": result.load_after[endpoint],
            "new": result.load_new[endpoint],
        }

    return {
        "service": before.name,
        "policy": before.policy.describe(),
        "affinity": before.policy.affinity,
        "moved": sum(result.moves.values()) if before.policy.affinity else None,
        "moves": [
            {"from": _endpoint(a), "to": None if b is None else _endpoint(b), "sessions": count}
            for (a, b), count in result.moves.most_common()
        ],
        "endpoints": [
            *[row(each, "removed") for each in before.endpoints],
            *[row(each, "added") for each in after.endpoints if each not in staying],
        ],
    }


# --- to text ------------------------------------------------------------------------------------

_AFFINITY = {
    Affinity.NONE: "it has no session",
    Affinity.NEW: "a session begins",
    Affinity.PINNED: "its pin says so",
    Affinity.HASHED: "its key says so",
    Affinity.REPINNED_GONE: "its pin names no endpoint of this service, so it gets another",
    Affinity.REPINNED_DOWN: "its endpoint is down, so it gets another",
    Affinity.REPINNED_DRAINING: "its endpoint is being stopped, so it gets another",
    Affinity.REPINNED_FAILED: "its pin is replaced by another",
    Affinity.SUCCESSOR: "it holds the slot that the pin names now",
    Affinity.WAITED: "it holds the slot that the pin names now",
    Affinity.VISIT: "nobody holds the slot that the pin names at the moment",
}


def as_text(answered: Json) -> str:
    """An answer in plain text."""
    (_, head), *rest = explained(answered)
    lines = (
        f"{name} {words}" if name.endswith(":") else f"{name:<10} {words}" for name, words in rest
    )
    return "\n".join((head, *(f"  {line}" for line in lines)))


def explained(said: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """An answer in words: what it is about, under no name, and then all that there is to it, each
    under its name; with a colon, if that is something in the request."""
    asked = said["request"]
    scheme = "https" if asked["secure"] else "http"
    url = f"{scheme}://{asked['host']}{asked['path']}"
    status = f" with {said['status']}" if said["status"] else ""
    client = asked["client"] or "a unix socket"
    yield "", f"{asked['method']} {url} from {client}: {said['fate']}{status}"
    yield "why", said["why"]
    if said["service"] is not None:
        yield "service", said["service"]
        yield "policy", said["policy"]
    for each in said.get("conditions", ()):  # other versions may not say
        yield each["option"], each["said"]
    for each in said["evidence"]:
        yield f"{each['source']}:", _meaning(each)
    if said["endpoint"] is not None:
        yield "endpoint", f"{endpoint_name(said['endpoint'])}: {_words(said['affinity'])}"
    elif said["by_turns"]:
        yield "endpoint", f"{_turns(said['by_turns'])}: {_words(said['affinity'])}"
    if said["path_at_endpoint"] not in (None, asked["path"]):
        yield "asked for", said["path_at_endpoint"]
    for whose, edit in (said.get("edits") or {}).items():
        done = [f"sets {name}" for name in edit["sets"]]
        done += [f"removes {name}" for name in edit["removes"]]
        yield whose, ", ".join(done)
    for cookie in said["set_cookies"]:
        yield "sets", cookie
    if said["if_it_dies"] is not None:
        instead = said["if_it_dies"]
        yield "if it dies", f"{_turns(instead['endpoints'])}: {_words(instead['affinity'])}"
    elif said["affinity"] is not None:
        yield "if it dies", "there is no other endpoint"


def simulation_as_text(answered: Json) -> str:
    """What a change does, for a terminal."""
    lines: list[str] = []
    for row in answered["services"]:
        lines += _simulation_lines(row, answered["sessions"])
    return "\n".join(lines) or "nothing changes"


def _simulation_lines(row: Json, sessions: int) -> Iterator[str]:
    if row["affinity"]:
        share = row["moved"] / sessions
        yield f"{row['service']}: {row['moved']} of {sessions} sessions move ({share:.1%})"
    else:
        yield f"{row['service']}: no sessions that could move, {sessions} requests"
    yield f"  policy     {row['policy']}"
    width = max((len(endpoint_name(each)) for each in row["endpoints"]), default=0)
    # New sessions say more than those that stay only where they are spread in another way.
    differ = any(each.get("new", each["after"]) != each["after"] for each in row["endpoints"])
    for each in row["endpoints"]:
        new = f", of {sessions} new ones {each.get('new', 0):>7}" if differ else ""
        change = f"  {each['change']}" if each["change"] else ""
        counts = f"{each['before']:>7} -> {each['after']:>7}"
        yield f"  {endpoint_name(each):{width}}  {counts}{new}{change}"
    for move in row["moves"][:SHOWN]:
        to = "nobody: no endpoint is left" if move["to"] is None else endpoint_name(move["to"])
        yield f"  {move['sessions']:>9} move from {endpoint_name(move['from'])} to {to}"
    if len(row["moves"]) > SHOWN:
        yield f"  and between {len(row['moves']) - SHOWN} more pairs of endpoints (--json)"


def _meaning(each: Json) -> str:
    """Proxies of other versions may have other meanings."""
    value = shown(each["value"])
    decides = ", which decides" if each["decides"] else ", which does not count"
    whose = "" if each["endpoint"] is None else endpoint_name(each["endpoint"])
    match each["meaning"]:
        case Meaning.PIN.value:
            return f"{value} is the pin of {whose}{decides}"
        case Meaning.KEY.value:
            owner = f" of {whose}" if whose else ""
            return f"{value} is a value of the application, slot {each['slot']}{owner}{decides}"
        case Meaning.NOTHING.value:
            return f"{value} says nothing"
        case other:
            return f"{value} is a {other}" + (f": {whose}" if whose else "") + decides


def _words(affinity: str) -> str:
    """What a word of the access log says here."""
    known = {each.value: _AFFINITY[each] for each in _AFFINITY}
    return f"{known[affinity]} ({affinity})" if affinity in known else affinity


def _turns(endpoints: Iterable[Json]) -> str:
    names = [endpoint_name(each) for each in endpoints]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    listed = ", ".join(names[:SHOWN]) + more
    return listed if len(names) == 1 else f"one of {len(names)} by turns ({listed})"


def endpoint_name(endpoint: Mapping[str, Any]) -> str:
    """What an endpoint of an answer is called, and its state if there is something about it."""
    state = "" if endpoint["state"] == "usable" else f" ({_state(endpoint)})"
    where = "" if endpoint["id"] == endpoint["address"] else f" {endpoint['address']}"
    return f"{endpoint['service']}/{endpoint['id']}{where}{state}"


def _state(endpoint: Mapping[str, Any]) -> str:
    why = endpoint.get("why")  # other versions may not say
    return f"{endpoint['state']}: {why}" if why else str(endpoint["state"])
