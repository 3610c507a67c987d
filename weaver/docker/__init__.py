"""Docker's network and address plugin: its remote drivers, on a socket of their own."""
