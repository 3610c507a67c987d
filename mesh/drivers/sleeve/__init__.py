"""The sleeve worker: frames between the TAP and UDP, sealed, one process a daemon."""
