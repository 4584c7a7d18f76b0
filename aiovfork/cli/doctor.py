"""`aiovfork doctor`: what the probe and the system say, and what each fact means in one sentence."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from aiovfork.cli import findings as found
from aiovfork.cli.system_calls import CALLS_OF_THREADS, SYSTEM_CALLS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from aiovfork.cli.findings import Finding

DESCRIPTION = "Says what this kernel, sandbox and process allow, and what each fact means for aiovfork."
STATUSES = "Exit status: 0 full speed, 1 works in a degraded mode, 2 cannot work."
STATUS = {"ok": 0, "note": 0, "degraded": 1, "fatal": 2}
FILTERS = (
    "aiovfork makes these system calls; asyncio needs none of them to start a child. A seccomp filter that "
    "kills at one of them ends this process; what a refusal means is said here. "
    f"A worker is a thread, so the calls of any thread come on top: {', '.join(CALLS_OF_THREADS)}."
)
STYLES = {"ok": "green", "note": "cyan", "degraded": "yellow", "fatal": "bold red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the doctor's options."""
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the findings and return the exit status."""
    facts = found.probed_facts()
    findings = found.all_findings(facts)
    status = max(STATUS[finding.level] for finding in findings)
    if arguments.json:
        document = {
            "status": status,
            "verdict": verdict(findings, status),
            "findings": [finding._asdict() for finding in findings],
            "facts": facts,
            "system_calls": [call._asdict() for call in SYSTEM_CALLS],
        }
        json.dump(document, sys.stdout, indent=2)
        print()
    else:
        show(findings, verdict(findings, status))
    return status


def verdict(findings: Sequence[Finding], status: int) -> str:
    """Say in one line how well aiovfork works here, and because of what."""
    reasons = ", ".join(finding.name for finding in findings if STATUS[finding.level] == status)
    return (
        "aiovfork works at full speed here.",
        f"aiovfork works here in a degraded mode: {reasons}.",
        f"aiovfork cannot work here: {reasons}.",
    )[status]


def show(findings: Sequence[Finding], conclusion: str) -> None:
    """Print the findings for people; as a table where rich is installed."""
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        for finding in findings:
            print(f"{finding.level:<9} {finding.name}: {finding.value}. {finding.meaning}")
        print(f"\n{FILTERS}")
        for call in SYSTEM_CALLS:
            print(f"{call.name}: {call.purpose}. Refused: {call.refused}.")
        print(f"\n{conclusion}")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "What", "Found", "What it means"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        style = STYLES[finding.level]
        table.add_row(f"[{style}]{finding.level}[/]", finding.name, finding.value, finding.meaning)
    calls = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("Call", "What for", "Where it is refused"):
        calls.add_column(heading, overflow="fold")
    for call in SYSTEM_CALLS:
        calls.add_row(*call)
    console = Console(highlight=False)
    console.print(table)
    console.print(FILTERS, markup=False)
    console.print(calls)
    console.print(conclusion, markup=False)
