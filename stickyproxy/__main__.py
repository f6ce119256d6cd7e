"""``stickyproxy`` and ``python -m stickyproxy``."""

import sys


def main() -> int:
    """Run a command; returns the exit status."""
    if sys.argv[1:2] == ["connector"]:
        # There is one for every network on every node: what the other commands load, it need not.
        from stickyproxy.connector.server import main as connector

        return connector(sys.argv[2:])
    if sys.argv[1:2] == ["keeper"]:
        # There is one on every node, and it never ends: what the other commands load, it need not.
        from stickyproxy.handover.keeper import main as keeper

        return keeper(sys.argv[2:])
    if sys.argv[1:2] == ["custodian"]:
        # It does nothing, and should cost nothing.
        from stickyproxy.custodian.program import main as custodian

        return custodian(sys.argv[2:])
    from stickyproxy.cli.main import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
