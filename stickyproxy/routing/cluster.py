"""The live side of the services on a route."""

from __future__ import annotations

from stickyproxy.model.service import ServiceSpec
from stickyproxy.routing.balancers import policy_for
from stickyproxy.routing.endpoint import Balancer, Endpoint, EndpointState, Members
from stickyproxy.routing.policy import Policy


class Cluster:
    """The endpoints of one or several services that share a route, and their balancer.

    The policy is that of the first service by name. The balancer is built from the endpoints'
    states, and built again when one of them changes, so that a pick never has to filter.
    """

    def __init__(
        self,
        services: tuple[ServiceSpec, ...],
        endpoints: tuple[Endpoint, ...],
        previous: Balancer | None = None,
    ) -> None:
        self.services = services
        self.name = "+".join(service.name for service in services)
        self.endpoints = endpoints
        self.policy: Policy = policy_for(services[0])
        self.balancer: Balancer = self.policy.build(self._members(), previous)

    def rebuild(self) -> None:
        """The state of an endpoint has changed; takes effect with the next pick."""
        self.balancer = self.policy.build(self._members(), self.balancer)

    def _members(self) -> Members:
        by_state: dict[EndpointState, list[Endpoint]] = {state: [] for state in EndpointState}
        for endpoint in self.endpoints:
            by_state[endpoint.state].append(endpoint)
        return Members(
            usable=tuple(by_state[EndpointState.USABLE]),
            draining=tuple(by_state[EndpointState.DRAINING]),
            down=tuple(by_state[EndpointState.DOWN]),
        )

    def __repr__(self) -> str:
        usable = sum(endpoint.state is EndpointState.USABLE for endpoint in self.endpoints)
        return (
            f"<Cluster {self.name} {usable}/{len(self.endpoints)} usable, {self.policy.describe()}>"
        )
