"""Peers' own tests, run on loops that start their children with aiovfork: `python -m conformance`."""
