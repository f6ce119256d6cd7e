"""The live side of the services on a route."""

from __future__ import annotations

from stickyproxy.base.commons import Buckets
from stickyproxy.model.service import ServiceSpec
from stickyproxy.routing import admit, draining
from stickyproxy.routing.admit import Limiters
from stickyproxy.routing.balancers import policy_for
from stickyproxy.routing.budget import RetryBudget
from stickyproxy.routing.endpoint import Balancer, Endpoint, EndpointState
from stickyproxy.routing.policy import Policy
from stickyproxy.routing.waiting import WaitingRoom


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
        budget: RetryBudget | None = None,
        limiters: Limiters | None = None,
        *,
        buckets: Buckets | None = None,
        waiting: WaitingRoom | None = None,
        coming: frozenset[bytes] = frozenset(),
    ) -> None:
        """``previous``, ``budget``, ``limiters``, ``waiting``: of the cluster that it replaces.
        ``buckets``: see ``admit.limiters``. ``coming``: see ``Members``."""
        self.services = services
        self.name = "+".join(service.name for service in services)
        self.endpoints = endpoints
        self.budget = budget or RetryBudget()
        self.limiters = admit.limiters(services, limiters or {}, buckets)
        self.policy: Policy = policy_for(services[0])
        self.waiting = waiting or WaitingRoom()
        self.coming = coming
        self.balancer: Balancer = draining.build(self.policy, endpoints, previous, coming)

    def rebuild(self) -> None:
        """The state of an endpoint has changed; takes effect with the next pick."""
        self.balancer = self.built_again()
        self.waiting.wake()

    def built_again(self) -> Balancer:
        """A balancer that picks as this one would, by the present states of the endpoints."""
        return draining.build(self.policy, self.endpoints, self.balancer, self.coming)

    def __repr__(self) -> str:
        usable = sum(endpoint.state is EndpointState.USABLE for endpoint in self.endpoints)
        return (
            f"<Cluster {self.name} {usable}/{len(self.endpoints)} usable, {self.policy.describe()}>"
        )
