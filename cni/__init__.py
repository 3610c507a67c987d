"""The CNI executables: thin clients of the daemon that import built-in modules only."""
