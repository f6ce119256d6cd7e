"""DATA PLANE: why a client reached the endpoint that it did, for those who may know."""

from __future__ import annotations

from stickyproxy.routing.endpoint import Pick
from stickyproxy.semantics.edits import Edit
from stickyproxy.semantics.headers import printable


def reason_of(pick: Pick) -> str:
    """The value of ``x-sticky-reason``: the word in the access log, and which endpoint it is."""
    endpoint = pick.endpoint
    shown = printable(endpoint.id.encode()).replace('"', "'")
    return f'{pick.affinity.value}; endpoint="{shown}"; state="{endpoint.state.value}"'


def reason_edit(pick: Pick, edit: Edit | None) -> Edit:
    """What is done with a response, besides what else is."""
    told = Edit((("x-sticky-reason", reason_of(pick)),))
    return told if edit is None else edit.and_then(told)
