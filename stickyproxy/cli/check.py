"""``stickyproxy check``: what a configuration file stands for, or what is wrong with it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator

from stickyproxy.cli.common import Commands, add_config
from stickyproxy.config.load import load
from stickyproxy.config.settings import Config
from stickyproxy.control import certificates, report
from stickyproxy.control.registry import NoConnections
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.providers.certificates import examined
from stickyproxy.routing import builder
from stickyproxy.routing.endpoint import Endpoint
from stickyproxy.runtime.data_plane import PlaneSettings
from stickyproxy.runtime.sources import has_tls


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "check",
        help="check a configuration file",
        description="Print the routing table that the file stands for, and warnings of what cannot "
        "have been meant; or every error in it (exit status 1). The files of its certificates are "
        "read, and an error in one of them ends with exit status 1 too.",
    )
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(command=check)


def check(options: argparse.Namespace) -> int:
    """Run the command."""
    settings = load(options.config)
    table = builder.build(settings.services, _unconnected, None)
    now = time.time()
    found = examined(settings.certificates, now)
    snapshots = [Snapshot("static", settings.services), found]
    problems = [
        *report.conflicts(settings.services),
        *found.problems,
        *certificates.problems(snapshots, now),
        *report.client_auths(settings.services),
        *_unmet(settings),
        *(certificates.mismatches(snapshots) if has_tls(settings) else ()),
    ]
    listeners = [str(listener.address) for listener in settings.listeners]
    if options.json:
        services = report.rows(snapshots, problems)
        print(json.dumps({"listeners": listeners, "services": services}, indent=2))
    else:
        print("listeners: " + ", ".join(listeners))
        print(table.dump())
        for problem in problems:
            print(f"{'error' if problem.fatal else 'warning'}: {problem}", file=sys.stderr)
    return int(any(problem.fatal for problem in problems))


def _unmet(settings: Config) -> Iterator[Problem]:
    """What services ask of TLS that the rest of the file does not give them."""
    plane = PlaneSettings(settings.proxy, settings.access_log, None, has_tls=has_tls(settings))
    if plane.clear_only and settings.controller is None:
        yield from report.without_tls(settings.services)
    if settings.acme is None and settings.follow is None:
        yield from report.not_ordered(settings.services, ())


def _unconnected(service: ServiceSpec, spec: EndpointSpec) -> Endpoint:
    return Endpoint(service.name, spec, b"", NoConnections(), service.tls)
