"""One Docker engine: what it lists of its containers."""

from __future__ import annotations

from urllib.parse import urlsplit

from docker import APIClient

from stickyproxy.base.errors import ProviderError
from stickyproxy.config.settings import DockerSettings
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.providers.docker.reader import ContainerReader
from stickyproxy.providers.docker.state import ContainersState, containers_in
from stickyproxy.providers.engine.client import ERRORS, connect, explained, own_container


class ContainerEngine:
    """One Docker engine. All methods block, and raise ProviderError."""

    def __init__(self, settings: DockerSettings) -> None:
        self._settings = settings
        self._container = own_container()
        self._client: APIClient | None = None
        self._realm = ""
        self._last: ContainersState | None = None

    def look(self) -> ContainersState | None:
        """List all containers; None if nothing has changed. Three requests: who is ill only shows
        in which filter lets it through."""
        try:
            state = self._look()
        except ERRORS as error:
            self.forget()
            contained = bool(self._container)
            said = explained(self._settings.endpoint, error, contained=contained)
            raise ProviderError(said) from error
        if state == self._last:
            return None
        self._last = state
        return state

    def _look(self) -> ContainersState:
        if self._client is None:
            self._client = connect(self._settings)
            self._realm = str(self._client.info()["ID"])
        client = self._client
        listed = client.containers(all=True)
        starting, unhealthy = (
            {str(each["Id"]) for each in client.containers(filters={"health": health})}
            for health in ("starting", "unhealthy")
        )
        containers = containers_in(listed, starting, unhealthy)
        own = next((each for each in containers if each.id == self._container), None)
        if own is not None and own.on_host_network:
            own = None
        return ContainersState(self._realm, containers, own, _machine(self._settings.endpoint))

    def forget(self) -> None:
        """Close connections; the next look starts afresh."""
        client, self._client = self._client, None
        self._last = None
        if client is not None:
            client.close()


def _machine(endpoint: str) -> str:
    """The host of ``tcp://host:port``; of a socket, this machine."""
    return urlsplit(endpoint).hostname or "127.0.0.1"


def list_containers(settings: DockerSettings) -> Snapshot:
    """What the engine's containers publish now. Blocks; raises ProviderError."""
    engine = ContainerEngine(settings)
    try:
        state = engine.look()
    finally:
        engine.forget()
    assert state is not None  # the first look always sees something new
    return ContainerReader(settings.service_cluster).read(state)
