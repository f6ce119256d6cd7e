"""The admin API as an OpenAPI document (https://spec.openapis.org/oas/v3.1.1), at
``/v1/openapi.json``.

The tests hold answers to it, and not only to names that have to be there: an answer has none that
is not described.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stickyproxy import __version__
from stickyproxy.control.questions import MOST_ENDPOINTS, MOST_SESSIONS, SESSIONS
from stickyproxy.model.events import EventKind
from stickyproxy.model.service import ADMIN_STATES

Schema = dict[str, Any]

MOST_BYTES = 65536
"""Of the body of a request."""


def _object(required: Mapping[str, Schema], **more: Schema) -> Schema:
    """``more``: what may be missing."""
    return {
        "type": "object",
        "properties": dict(required) | more,
        "required": list(required),
    }


def _question(required: Mapping[str, Schema], **more: Schema) -> Schema:
    """What is sent: a name that is not known is refused."""
    return _object(required, **more) | {"additionalProperties": False}


def _list(of: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": of} | more


def _one_of(*words: str) -> Schema:
    return {"type": "string", "enum": list(words)}


def _said(schema: Schema, text: str) -> Schema:
    return schema | {"description": text}


def _or_null(schema: Schema) -> Schema:
    if "$ref" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    return schema | {"type": [schema["type"], "null"]}


def _by_name(of: Schema) -> Schema:
    return {"type": "object", "additionalProperties": of}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer", "minimum": 0}
_NUMBER: Schema = {"type": "number", "minimum": 0}
_TRUTH: Schema = {"type": "boolean"}
_TIME = _said(_NUMBER, "Unix time in seconds")

_PROBLEM = {
    "label": _said(_TEXT, "the option it is about; empty: none"),
    "value": _said(_TEXT, "its value, quoted; empty: none"),
    "reason": _TEXT,
    "remedy": _said(_TEXT, "a command that mends it; empty: none"),
    "fatal": _said(_TRUTH, "because of it something is not served as declared"),
}
_ENDPOINT = {
    "id": _TEXT,
    "number": _said({"type": "integer", "minimum": 1}, "as in `demo/3`"),
    "address": _TEXT,
    "node": _said(_TEXT, "empty: not known"),
    "state": _TEXT,
    "why": _said(_TEXT, "why it is down; empty: it is not, or nobody knows"),
    "admin_state": _one_of(*ADMIN_STATES),
    "figures": _or_null(_ref("EndpointFigures")),
}
_TOLD = {"service": _TEXT, "id": _TEXT, "address": _TEXT}
_DETAILS: Mapping[str, Schema] = {
    "count": _WHOLE,
    "expires": _TIME,
    "services": _WHOLE,
    "endpoints": _WHOLE,
    "sessions": _WHOLE,
    "until": _TIME,
    "worker": _WHOLE,
}
"""Of those of events, the ones that are no text."""
_EXPLAINED = _object(
    _TOLD | {"state": _TEXT, "why": _said(_TEXT, "why it is in this state; empty: it is usable")}
)
_EDIT = _object({"sets": _list(_TEXT), "removes": _list(_TEXT)})
"""Names of header fields."""

_SCHEMAS: dict[str, Schema] = {
    "Error": _object({"error": _said(_TEXT, "a sentence that says what is wrong")}),
    "Status": _object(
        {
            "version": _TEXT,
            "commit": _TEXT,
            "began": _TIME,
            "uptime": _said(_NUMBER, "seconds"),
            "ready": _said(_TRUTH, "clients are welcome"),
            "why": _said(_TEXT, "why they are not; empty: they are"),
            "workers": _object({"wanted": _WHOLE, "accepting": _WHOLE, "lost": _WHOLE}),
            "providers": _list(
                _object(
                    {
                        "name": _TEXT,
                        "up": _said(_TRUTH, "in touch with its source"),
                        "why": _said(_TEXT, "why it is not; empty: it is"),
                        "published": _or_null(_TIME),
                        "age": _said(_or_null(_NUMBER), "seconds since then"),
                    }
                )
            ),
            "services": _WHOLE,
            "endpoints": _WHOLE,
            "problems": _object({"errors": _WHOLE, "warnings": _WHOLE}),
            "table_swaps": _WHOLE,
        }
    ),
    "Problem": _object(_PROBLEM),
    "ProblemOf": _object(
        {
            "service": _said(_TEXT, "the one that it is about; empty: it is about none"),
            "certificate": _said(_TEXT, "likewise"),
            "provider": _said(_TEXT, "likewise: it has lost contact with its source"),
        }
        | _PROBLEM
    ),
    "Service": _object(
        {
            "name": _TEXT,
            "hosts": _list(_TEXT),
            "context_root": _said(_or_null(_TEXT), "null: it is not published"),
            "policy": _or_null(_TEXT),
            "state": _TEXT,
            "problems": _list(_ref("Problem")),
            "figures": _or_null(_ref("ServiceFigures")),
            "endpoints": _list(_ref("Endpoint")),
        }
    ),
    "Endpoint": _object(_ENDPOINT),
    "EndpointOf": _object({"service": _TEXT} | _ENDPOINT),
    "ServiceFigures": _object(
        {
            "requests_per_second": _NUMBER,
            "errors_per_second": _NUMBER,
            "in_flight": _WHOLE,
            "p50": _said(_or_null(_NUMBER), "seconds; null: there was no request"),
            "p99": _or_null(_NUMBER),
            "sessions": _or_null(_WHOLE),
            "affinity": _said(_by_name(_NUMBER), "per second, by outcome"),
            "bytes_in_per_second": _NUMBER,
            "bytes_out_per_second": _NUMBER,
        }
    ),
    "EndpointFigures": _object(
        {
            "requests_per_second": _NUMBER,
            "errors_per_second": _NUMBER,
            "in_flight": _WHOLE,
            "sessions": _or_null(_WHOLE),
        }
    ),
    "Route": _object(
        {
            "host": _TEXT,
            "kind": _one_of("services", "redirect", "passthrough", "tls-only"),
            "context_root": _TEXT,
            "rewrite": _TRUTH,
            "services": _list(_TEXT),
            "policy": _or_null(_TEXT),
            "location": _or_null(_TEXT),
        }
    ),
    "Certificate": _object(
        {
            "certificate": _said(_TEXT, "where it comes from"),
            "provider": _TEXT,
            "hosts": _list(_TEXT),
            "begins": _said(_NUMBER, "Unix time in seconds; 0: unknown"),
            "expires": _said(_NUMBER, "likewise"),
            "valid": _said(_TRUTH, "now"),
        }
    ),
    "Event": _object(
        {
            "id": _said(_TEXT, "what `Last-Event-ID` takes"),
            "time": _TIME,
            "event": _one_of(*(kind.word for kind in EventKind)),
            "level": _one_of("debug", "info", "warning", "error"),
            "text": _said(_TEXT, "a sentence, as the log has it"),
        },
        left_out=_said(_WHOLE, "events about the same thing before it that were not told"),
        **{name: _DETAILS.get(name, _TEXT) for kind in EventKind for name in kind.details},
    ),
    "Config": _said(
        {"type": "object", "additionalProperties": True},
        "Tables and keys of the configuration file with every default; secrets are `***`.",
    ),
    "AdminState": _object(
        {
            "target": _TEXT,
            "admin_state": _one_of(*ADMIN_STATES),
            "counts": _said(_TRUTH, "what is left is known here"),
            "notes": _list(_TEXT),
            "endpoints": _list(
                _object(
                    _TOLD
                    | {
                        "node": _TEXT,
                        "admin_state": _one_of(*ADMIN_STATES),
                        "sessions": _or_null(_WHOLE),
                        "busy": _or_null(_WHOLE),
                        "quiet": _said(_or_null({"type": "number"}), "seconds"),
                        "empty": _TRUTH,
                    }
                )
            ),
        }
    ),
    "Orders": _object(
        {"orders": _list(_object({"target": _TEXT, "admin_state": _one_of(*ADMIN_STATES)}))}
    ),
    "Order": _object({"target": _TEXT, "admin_state": _one_of(*ADMIN_STATES)}),
    "Question": _question(
        {"host": _TEXT},
        path=_said(_TEXT, "with the query, if there is one"),
        method=_TEXT,
        headers=_list({"type": "array", "items": _TEXT, "minItems": 2, "maxItems": 2}),
        client=_said(_TEXT, "an IP address; empty: a unix socket"),
        secure=_said(_TRUTH, "over TLS"),
        body=_said(_WHOLE, "how many bytes it has"),
    ),
    "Explanation": _object(
        {
            "request": _object(
                {
                    "method": _TEXT,
                    "host": _TEXT,
                    "path": _TEXT,
                    "client": _TEXT,
                    "secure": _TRUTH,
                    "body": _WHOLE,
                }
            ),
            "fate": _TEXT,
            "status": _or_null(_WHOLE),
            "why": _TEXT,
            "route": _or_null(_object({"host": _TEXT, "root": _TEXT})),
            "service": _or_null(_TEXT),
            "policy": _or_null(_TEXT),
            "conditions": _list(_object({"option": _TEXT, "said": _TEXT, "fulfilled": _TRUTH})),
            "edits": _or_null(_object({}, request=_EDIT, response=_EDIT)),
            "path_at_endpoint": _or_null(_TEXT),
            "evidence": _list(
                _object(
                    {
                        "source": _TEXT,
                        "value": _TEXT,
                        "meaning": _TEXT,
                        "decides": _TRUTH,
                        "endpoint": _or_null(_EXPLAINED),
                        "slot": _or_null(_WHOLE),
                    }
                )
            ),
            "affinity": _or_null(_TEXT),
            "endpoint": _or_null(_EXPLAINED),
            "by_turns": _list(_EXPLAINED),
            "set_cookies": _list(_TEXT),
            "if_it_dies": _or_null(_object({"affinity": _TEXT, "endpoints": _list(_EXPLAINED)})),
        }
    ),
    "Change": _question(
        {},
        scale=_by_name(_WHOLE | {"maximum": MOST_ENDPOINTS}),
        remove=_list(_TEXT),
        weight=_by_name({"type": "number", "minimum": 0.1, "maximum": 1}),
        sessions={"type": "integer", "minimum": 1, "maximum": MOST_SESSIONS, "default": SESSIONS},
    ),
    "Simulation": _object(
        {
            "sessions": _WHOLE,
            "services": _list(
                _object(
                    {
                        "service": _TEXT,
                        "policy": _TEXT,
                        "affinity": _TRUTH,
                        "moved": _or_null(_WHOLE),
                        "moves": _list(
                            _object(
                                {
                                    "from": _EXPLAINED,
                                    "to": _or_null(_EXPLAINED),
                                    "sessions": _WHOLE,
                                }
                            )
                        ),
                        "endpoints": _list(
                            _object(
                                _EXPLAINED["properties"]
                                | {
                                    "change": _or_null(_TEXT),
                                    "before": _WHOLE,
                                    "after": _WHOLE,
                                    "new": _WHOLE,
                                }
                            )
                        ),
                    }
                )
            ),
        }
    ),
}

_REASONS = {
    "400": "What is asked is not what can be asked, or not HTTP.",
    "401": "The token is missing or wrong.",
    "403": "It is not allowed to whoever asks.",
    "404": "There is nothing of this name.",
    "405": "This method is not possible here.",
    "409": "It cannot be kept, so nothing is changed.",
    "413": f"The body has more than {MOST_BYTES} bytes.",
    "415": "The body is not JSON, by its Content-Type.",
    "503": "There are too many of these already.",
}


def _answers(schema: Schema, *statuses: int) -> Schema:
    """What may come of a request: ``schema``, or one of these errors, and those that there may
    always be."""
    found: Schema = {
        "200": {"description": "It.", "content": {"application/json": {"schema": schema}}}
    }
    for status in sorted({400, 401, 403, *statuses}):
        found[str(status)] = {
            "description": _REASONS[str(status)],
            "content": {"application/json": {"schema": _ref("Error")}},
        }
    return found


def _get(id_: str, summary: str, answers: Schema, *parameters: Schema) -> Schema:
    operation = {"operationId": id_, "summary": summary, "responses": answers}
    return {"get": operation | ({"parameters": list(parameters)} if parameters else {})}


def _post(id_: str, summary: str, body: Schema, answers: Schema) -> Schema:
    content = {"application/json": {"schema": body}}
    return {
        "post": {
            "operationId": id_,
            "summary": summary,
            "requestBody": {"required": True, "content": content},
            "responses": answers,
        }
    }


def _parameter(name: str, where: str, schema: Schema, text: str) -> Schema:
    return {
        "name": name,
        "in": where,
        "required": where == "path",
        "schema": schema,
        "description": text,
    }


def _rows(name: str, of: str) -> Schema:
    return _answers(_object({name: _list(_ref(of))}))


_PATHS: Schema = {
    "/v1/status": _get("status", "The proxy as a whole.", _answers(_ref("Status"))),
    "/v1/services": _get("services", "All services, by name.", _rows("services", "Service")),
    "/v1/services/{name}": _get(
        "service",
        "One service.",
        _answers(_ref("Service"), 404),
        _parameter("name", "path", _TEXT | {"minLength": 1}, "its name"),
    ),
    "/v1/endpoints": _get(
        "endpoints", "The endpoints of all services.", _rows("endpoints", "EndpointOf")
    ),
    "/v1/routes": _get("routes", "The routing table.", _rows("routes", "Route")),
    "/v1/problems": _get("problems", "What is wrong.", _rows("problems", "ProblemOf")),
    "/v1/certificates": _get(
        "certificates", "Certificates, without their keys.", _rows("certificates", "Certificate")
    ),
    "/v1/config": _get("config", "The configuration in force.", _answers(_ref("Config"))),
    "/v1/admin_state": _get(
        "adminState",
        "What operators want of a target's endpoints; without a target, all that they want.",
        _answers({"anyOf": [_ref("AdminState"), _ref("Orders")]}, 404),
        _parameter("target", "query", _TEXT, "`demo`, `demo/3`, `demo/ID` or `node:NAME`"),
        _parameter("idle", "query", _NUMBER, "seconds after which a session is over: 60"),
    )
    | _post(
        "changeAdminState",
        "Drain endpoints, put them into maintenance, or have them back.",
        _ref("Order"),
        _answers(_ref("AdminState"), 404, 409, 413, 415),
    ),
    "/v1/explain": _post(
        "explain",
        "What would come of a request.",
        _ref("Question"),
        _answers(_ref("Explanation"), 413, 415),
    ),
    "/v1/simulate": _post(
        "simulate",
        "What a change of endpoints would do to sessions.",
        _ref("Change"),
        _answers(_ref("Simulation"), 413, 415),
    ),
    "/v1/changes": _get(
        "changes",
        "The last events that changed something, the last one first.",
        _rows("changes", "Event"),
    ),
    "/v1/events": _get(
        "events",
        "Events as they come, as Server-Sent Events; the data of each is an Event.",
        _answers({}, 503)
        | {"200": {"description": "They.", "content": {"text/event-stream": {"schema": _TEXT}}}},
        _parameter("last", "query", _WHOLE | {"maximum": 999_999}, "begin with the last so many"),
        _parameter("Last-Event-ID", "header", _TEXT, "go on after this one"),
    ),
    "/v1/openapi.json": _get(
        "openapi", "This document.", _answers({"type": "object", "additionalProperties": True})
    ),
}


def document() -> Schema:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "stickyproxy's admin API",
            "version": __version__,
            "description": "Names and values may be added within /v1/; ignore what you do not "
            "know. A token, where one is needed, is a bearer token.",
        },
        "paths": _PATHS,
        "security": [{}, {"token": []}],
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
