"""`python -m aiovfork doctor`: what the probe and the system say, and what each fact means in one sentence.

Exit status: 0 full speed, 1 works in a degraded mode, 2 cannot work.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from aiovfork.cli import findings as found

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from aiovfork.cli.findings import Finding

STATUS = {"ok": 0, "note": 0, "degraded": 1, "fatal": 2}
STYLES = {"ok": "green", "note": "cyan", "degraded": "yellow", "fatal": "bold red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the doctor's options."""
    parser.add_argument("--json", action="store_true", help="machine-readable output")


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
        print(conclusion)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "What", "Found", "What it means"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        style = STYLES[finding.level]
        table.add_row(f"[{style}]{finding.level}[/]", finding.name, finding.value, finding.meaning)
    console = Console(highlight=False)
    console.print(table)
    console.print(conclusion, markup=False)
