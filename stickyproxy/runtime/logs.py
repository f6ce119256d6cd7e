"""The log of a process, as text or as JSON: one object a line, with what an event says in names of
its own."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

from stickyproxy.model.events import Event
from stickyproxy.model.settings import ProcessLogFormat


def use(written: ProcessLogFormat, worker: int | None = None) -> None:
    """Write it like this from now on. ``worker``: the number of this process, if it is one."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter(written, worker))


def formatter(written: ProcessLogFormat, worker: int | None = None) -> logging.Formatter:
    """What makes lines of records."""
    if written == "json":
        return JsonLines(worker)
    who = "" if worker is None else f" worker {worker}:"
    return logging.Formatter(f"%(asctime)s %(levelname)s{who} %(message)s")


class JsonLines(logging.Formatter):
    """Records as JSON."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """``time`` (RFC 3339), ``level``, ``text``; of a worker ``worker``; of an event ``event``
        and its details; of a bug ``traceback``."""
        moment = datetime.fromtimestamp(record.created, UTC)
        row: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "text": record.getMessage(),
        }
        if self._worker is not None:
            row["worker"] = self._worker
        event = getattr(record, "event", None)
        if isinstance(event, Event):
            row |= {"event": event.kind.word, **event.details}
            if event.left_out:
                row["left_out"] = event.left_out
        if record.exc_info:
            row["traceback"] = self.formatException(record.exc_info)
        return json.dumps(row)
