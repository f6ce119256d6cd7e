"""The static provider: the services that stand in the configuration file."""

from __future__ import annotations

from stickyproxy.config.load import Config
from stickyproxy.model.snapshot import Snapshot


def snapshot(config: Config) -> Snapshot:
    """The ``[[services]]`` of a configuration as a provider's state."""
    return Snapshot("static", config.services)
