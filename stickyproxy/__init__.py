"""HTTP load balancer for Docker Swarm with sticky sessions that are right."""

__version__ = "0.1.0"
