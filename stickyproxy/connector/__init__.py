"""Connections into networks that this process is not on.

A socket belongs to the network namespace it was made in, whoever holds it. So a small program in a
container on such a network, the *connector*, opens TCP connections for the proxies on its node and
hands the connected descriptors over (SCM_RIGHTS, unix(7)). From then on the proxy reads and writes
the endpoint's socket itself: the price is paid per connection, and not a byte is copied.

    wire      what the two say to each other
    server    the connector: standard library only, a few megabytes, knows nothing of HTTP
    client    the proxy's end, for an asyncio event loop
"""
