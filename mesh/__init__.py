"""Peer-to-peer mesh: identity, connections, gossip, topology, routes, links.

Everything outside ``mesh.drivers`` is pure: no sockets, no clock, no randomness.
"""
