"""The custodian: a program that has secrets and does nothing.

Docker's API never gives out what is in a secret; only the containers of a service that it is
mounted in have it. Mounting it in the proxies' own service would replace their tasks. So it is
mounted in this one, and whoever may use the engine, which already has all secrets, asks there: by
``exec`` in its container (``program``, with ``--show``). It has no port, no volume, no capability
and no Docker socket, and takes no part in serving: what has been read stays with who has read it.
"""
