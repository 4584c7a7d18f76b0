"""The command: `python -m conformance [options]`."""

import argparse
import sys
from pathlib import Path
from typing import Final

import conformance
from conformance import exemptions, loops, report
from conformance.environments import PreparationError, Store
from conformance.pins import PYTHONS
from conformance.session import Choice, Session
from conformance.suites import BY_NAME
from conformance.verdict import judge

_BUILD: Final = Path(__file__).parent.parent / "build" / "conformance"
_FAILED, _NOT_RUN, _INTERRUPTED = 1, 2, 130


def say(text: object) -> None:
    """Print at once."""
    print(text, flush=True)  # noqa: T201  # this is a program


def main() -> int:
    """Run what was asked for, and return the exit status."""
    options = _parse()
    choice = Choice(
        [suite for name, suite in BY_NAME.items() if name in (options.suite or BY_NAME)],
        [loop for loop in loops.FACTORIES if loop in (options.loop or loops.FACTORIES)],
        [version for version in PYTHONS if version in options.python] if options.python else None,
        options.all_pythons,
        options.jobs,
        options.retries,
        options.wheel,
    )
    try:
        lists = exemptions.read()
        session = Session(choice, Store(options.build, say), lists, say)
        runs = session.run()
    except (PreparationError, exemptions.ExemptionError) as problem:
        say(problem)
        return _NOT_RUN
    except KeyboardInterrupt:
        return _INTERRUPTED
    verdict = judge(runs, lists, session.complete())
    report.show(verdict, say)
    if options.reruns:
        with options.reruns.open("a") as file:
            file.writelines(f"{run.name}: {test}\n" for run in runs for test in run.repaired)
    if options.update_docs:
        report.PAGE.write_text(report.filled_in(report.PAGE.read_text(), lists, verdict))
    return 0 if verdict.passed else _FAILED


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m conformance", description=conformance.__doc__)
    add = parser.add_argument
    add("--suite", action="append", choices=[*BY_NAME], help="only this one; may be repeated")
    add("--loop", action="append", choices=loops.FACTORIES, help="only this one; may be repeated")
    add("--python", action="append", choices=PYTHONS, help="only this version; may be repeated")
    add(
        "--all-pythons",
        action="store_true",
        help="the peers' suites on every version, not on the newest only",
    )
    add("--jobs", type=int, default=2, help="runs at the same time (default: 2)")
    add("--retries", type=int, default=0, help="how often a run with a failure is repeated (default: 0)")
    add("--reruns", type=Path, metavar="FILE", help="append here what passed only when it was repeated")
    add("--wheel", type=Path, metavar="FILE", help="test this wheel, rather than one built from the tree")
    add("--build", type=Path, default=_BUILD, metavar="FOLDER", help="where to keep what is made once")
    add("--update-docs", action="store_true", help="write the table into the documentation")
    options = parser.parse_args()
    if options.update_docs and (options.suite or options.loop or options.python or options.all_pythons):
        parser.error("--update-docs is for a run of everything")
    return options


if __name__ == "__main__":
    sys.exit(main())
