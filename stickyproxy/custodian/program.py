"""``stickyproxy custodian``: standard library only, and little of it.

    stickyproxy custodian                   wait for SIGTERM
    stickyproxy custodian --show NAME...    print what is in these secrets of this container

What is printed is a line for each secret that is there: its name, a space, its content in Base64.
"""

from __future__ import annotations

import binascii
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress

DIRECTORY = "/run/secrets"
"""Where the engine mounts them."""

HELP = "hold secrets for the proxies of a Swarm"
DESCRIPTION = (
    "Hold the secrets that are mounted in this container, for who may use the engine to ask for "
    "them there. Proxies and controllers in a Swarm create a service of this by themselves."
)
SHOW_HELP = "print what is in these secrets, in Base64"


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit status: 0 done, 2 wrong usage."""
    if not arguments:
        return hold()
    if arguments[0] == "--show":
        return show(arguments[1:])
    text = f"{DESCRIPTION}\n" if "--help" in arguments else f"{arguments[0]} is not understood\n"
    sys.stderr.write(f"usage: stickyproxy custodian [--show NAME...]\n\n{text}")
    return 0 if "--help" in arguments else 2


def hold() -> int:
    """Until told to stop."""
    signals = (signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    signal.sigwait(signals)
    return 0


def show(names: Sequence[str], directory: str = DIRECTORY) -> int:
    """Print them."""
    for line in lines(names, directory):
        sys.stdout.write(line)
    return 0


def lines(names: Sequence[str], directory: str) -> Iterator[str]:
    """A line for each secret that there is."""
    for name in names:
        if os.sep in name:
            continue
        with suppress(OSError), open(os.path.join(directory, name), "rb") as file:
            yield f"{name} {binascii.b2a_base64(file.read(), newline=False).decode()}\n"


def contents(output: str) -> dict[str, bytes]:
    """What is in which secret, from what was printed; a line that breaks off is left out."""
    found = {}
    for line in output.splitlines(keepends=True):
        name, _, text = line.partition(" ")
        if text.endswith("\n"):
            with suppress(binascii.Error):
                found[name] = binascii.a2b_base64(text, strict_mode=False)
    return found
