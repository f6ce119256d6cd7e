"""The container's health check: what runs in it answers HTTP. Exit status 0 if it does.

It asks the proxy's admin page, or what STICKYPROXY_HEALTH names as host:port.
Only the standard library, and started with ``-ES``: it runs every few seconds.
"""

import http.client
import os
import sys

ADDRESS = os.environ.get("STICKYPROXY_HEALTH", "127.0.0.1:8081")


def main() -> int:
    """Any HTTP answer will do."""
    host, _, port = ADDRESS.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=2)
    try:
        connection.request("GET", "/healthz", headers={"Connection": "close"})
        connection.getresponse().read(1)
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"{ADDRESS}: {error}\n")
        return 1
    finally:
        connection.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
