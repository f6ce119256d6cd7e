"""``stickyproxy demo-app``: one demo replica alone."""

from __future__ import annotations

import argparse
import asyncio
import os
import ssl

from stickyproxy.base import signals
from stickyproxy.base.errors import ListenError
from stickyproxy.cli.common import Commands, run
from stickyproxy.demo.app import DemoOptions, DemoReplica


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "demo-app",
        help="one demo replica alone",
        description="Run one demo replica: /ping, /info and a page that shows which replica "
        "responds. It reads the environment variables VERSION, METADATA and TITLE.",
    )
    parser.add_argument(
        "--listen", metavar="ADDR", default=":8080", help="host:port to listen on (default: :8080)"
    )
    parser.add_argument("--instance", help="the name it answers with (default: the host name)")
    parser.add_argument("--no-cookie", action="store_true", help="set no session cookie")
    parser.add_argument(
        "--tls-cert", metavar="FILE", help="speak TLS, with the certificate in this file (PEM)"
    )
    parser.add_argument(
        "--tls-key", metavar="FILE", help="its key (default: it is in the same file)"
    )
    parser.set_defaults(command=demo_app)


def demo_app(options: argparse.Namespace) -> int:
    """Run the command."""
    demo_options = DemoOptions.from_environ(
        os.environ, instance=options.instance, sets_cookie=not options.no_cookie
    )
    return run(_until_signalled(demo_options, options))


async def _until_signalled(options: DemoOptions, arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    signals.on_stop(stop)
    tls = _context(arguments.tls_cert, arguments.tls_key)
    replica = await DemoReplica.start(options, arguments.listen, tls)
    scheme = "https" if tls else "http"
    print(f"demo replica {options.instance} is ready on {scheme}://{replica.address}", flush=True)
    await stop.wait()
    await replica.stop()


def _context(cert: str | None, key: str | None) -> ssl.SSLContext | None:
    """None: in the clear. Raises ListenError."""
    if cert is None:
        if key is not None:
            raise ListenError("--tls-key has no meaning without --tls-cert: give both")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ValueError) as error:  # an SSLError is an OSError, too
        files = cert if key is None else f"{cert} and {key}"
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise ListenError(f"no certificate can be read from {files}: {reason}") from error
    return context
