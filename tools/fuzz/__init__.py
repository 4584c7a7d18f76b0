"""Fuzzing of what reads a plan: `python -m tools.fuzz --help`."""
