"""Who is published where, when only some can be reached: pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from stickyproxy.model.service import ServiceSpec


def shared_out(found: Iterable[tuple[ServiceSpec, bool]]) -> Iterator[ServiceSpec]:
    """The services of (service, can be reached). Clients of one that cannot get a 503; but not
    where it shares a host with others, on which it would only impose its policy."""
    found = tuple(found)
    open_ones = [spec for spec, is_open in found if is_open]
    taken = {
        (host, spec.context_root, spec.ssl_passthrough) for spec in open_ones for host in spec.hosts
    }
    defaults = {spec.context_root for spec in open_ones if spec.default_backend}
    for spec, is_open in found:
        if is_open:
            yield spec
            continue
        root = spec.context_root
        passed = spec.ssl_passthrough
        hosts = tuple(host for host in spec.hosts if (host, root, passed) not in taken)
        default = spec.default_backend and root not in defaults
        yield replace(spec, hosts=hosts, default_backend=default)
