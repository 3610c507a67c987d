"""The daemon, its HTTP API and the command line, on top of ``ipam`` and ``mesh``."""

__version__ = "0.1.0"
