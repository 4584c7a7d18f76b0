"""A server with a large heap starts helper processes on four backends: `make demo`."""
