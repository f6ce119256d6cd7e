"""``stickyproxy serve``: the proxy."""

from __future__ import annotations

import argparse
import gc
import logging
from pathlib import Path

from stickyproxy.base import build_info, signals
from stickyproxy.cli.common import Commands, add_config, run
from stickyproxy.runtime import logs
from stickyproxy.runtime.app import admin_access
from stickyproxy.runtime.supervisor import from_file


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "serve",
        help="run the proxy",
        description="Run the proxy. SIGHUP, or a change of the file, reloads the services; "
        "SIGTERM and SIGINT let requests under way finish and end it; a second one ends it at "
        "once.",
    )
    add_config(parser)
    parser.set_defaults(command=serve)


def serve(options: argparse.Namespace) -> int:
    """Run the command."""
    # A reload that comes before there is anything to reload must not end the process.
    signals.ignore_hangup()
    return run(_serve_until_signalled(options.config))


async def _serve_until_signalled(path: Path) -> None:
    app = from_file(path)
    logs.use(app.config.log.format)
    app.handle_signals()
    addresses = await app.start()
    # Modules and their like stay: to go through them again and again would take 40 ms each time, in
    # which nobody is served.
    gc.freeze()
    log = logging.getLogger("stickyproxy")
    log.info(
        "%s, services: %d, serves on %s",
        build_info.server_info(),
        sum(len(snapshot.services) for snapshot in app.registry.snapshots()),
        ", ".join(addresses),
    )
    if app.config.admin is not None and app.config.admin.path is None:
        log.info("its live page: http://%s/", app.admin_address)
        for lack in admin_access(app.config).lacking():
            log.warning("%s", lack)
    await app.run_until_signalled()
