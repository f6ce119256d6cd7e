"""``stickyproxy controller``: it finds services for proxies elsewhere."""

from __future__ import annotations

import argparse
import logging

from stickyproxy.base import build_info, signals
from stickyproxy.cli.common import Commands, add_config, run
from stickyproxy.config.load import load
from stickyproxy.runtime import logs
from stickyproxy.runtime.app import ControllerApp


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "controller",
        help="find services for proxies elsewhere",
        description="Watch the Swarm and tell the proxies that follow it, by the url in their "
        "[providers.controller]. It carries no traffic, and they need no Docker socket.",
    )
    add_config(parser)
    parser.set_defaults(command=control)


def control(options: argparse.Namespace) -> int:
    """Run the command."""
    signals.ignore_hangup()
    settings = load(options.config)
    logs.use(settings.log.format)
    return run(_control_until_signalled(ControllerApp(settings)))


async def _control_until_signalled(app: ControllerApp) -> None:
    app.handle_signals()
    address = await app.start()
    logging.getLogger("stickyproxy").info("%s, controller on %s", build_info.server_info(), address)
    await app.run_until_signalled()
