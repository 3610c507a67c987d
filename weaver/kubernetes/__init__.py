"""Kubernetes: peers from its list of nodes, space of deleted nodes, the condition of our own."""
