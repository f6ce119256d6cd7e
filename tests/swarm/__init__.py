"""A real Docker Swarm, started by the suite itself, and what it shows of the proxy."""
