"""Whole meshes on one machine: namespaces as hosts and pods, real daemons, real CNI calls."""
