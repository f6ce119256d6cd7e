"""Listening sockets that outlive the process that accepts on them.

A listening socket may be held by several processes; connections that wait in its queue are lost
only when the last of them closes it. So whoever holds it hands it over (SCM_RIGHTS on a unix
socket, unix(7)) to the one that comes next. That is

    a proxy     which hands its listeners to its successor, and leaves when that one accepts
    a keeper    which opens them, accepts nothing, and outlives every proxy (``keeper``)

    wire        what the two ends say to each other
    taking      the end that is given the listeners
    giving      the end of a proxy that gives its own away
    keeper      the program of a keeper: standard library only, a few megabytes
"""
