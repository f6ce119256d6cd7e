"""What a process does when it is signalled."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable


def on_stop(stop: asyncio.Event, end: Callable[[int], object] = os._exit) -> None:
    """Set ``stop`` on SIGTERM and SIGINT; a second one ends the process at once: ``end(1)``."""

    def stop_or_end() -> None:
        if stop.is_set():
            end(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop_or_end)


def on_hangup(call: Callable[[], object]) -> None:
    """Call on SIGHUP."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, call)


def ignore_hangup() -> None:
    """SIGHUP, which ends a process by default, does nothing until ``on_hangup``."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
