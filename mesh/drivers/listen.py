"""The listening socket of the control connections, made before everything that takes long.

Hosts that boot together dial each other at once. A peer that is still starting would refuse, and be
tried again two seconds later; one whose socket listens already answers as soon as it can.
"""

from __future__ import annotations

import socket

BACKLOG = 1024
"""Connections that wait for us: a large mesh that has waited for this host."""


def listening_socket(port: int) -> socket.socket:
    """On every address, IPv4 and IPv6. Raises OSError when the port is taken."""
    if socket.has_dualstack_ipv6():
        sock = socket.create_server(
            ("", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True
        )
    else:
        sock = socket.create_server(("", port), backlog=BACKLOG)
    sock.setblocking(False)
    return sock
