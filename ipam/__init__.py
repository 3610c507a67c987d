"""Address allocation on a CRDT ring; everything outside ``ipam.drivers`` is pure."""
