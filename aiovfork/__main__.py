"""The command `aiovfork`, and `python -m aiovfork`: the doctor."""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import PackageNotFoundError, version

from aiovfork.cli import doctor


def _version() -> str:
    try:
        return version("aiovfork")
    except PackageNotFoundError:
        return "(not installed)"


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return the exit status; 2 if it names no command."""
    parser = argparse.ArgumentParser(
        prog="aiovfork", description="Start processes from asyncio without stopping the event loop."
    )
    parser.add_argument("--version", action="version", version=f"aiovfork {_version()}")
    commands = parser.add_subparsers(title="commands", dest="command")
    summary = "what this system allows, and what that means for aiovfork"
    command = commands.add_parser(
        "doctor", help=summary, description=doctor.DESCRIPTION, epilog=doctor.STATUSES
    )
    doctor.add_arguments(command)
    command.set_defaults(run=doctor.run)
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help()
        return 2
    status: int = arguments.run(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
