"""The command: `python -m conformance [options]`."""

import argparse
import fcntl
import sys
from pathlib import Path
from typing import Final

import conformance
from conformance import exemptions, loops, report, session
from conformance.environments import PreparationError, Store
from conformance.suites import PYTHONS, SUITES
from conformance.verdict import judge

_BUILD: Final = Path(__file__).parent.parent / "build" / "conformance"
_FAILED, _NOT_RUN, _INTERRUPTED = 1, 2, 130


def say(text: object) -> None:
    """Print at once."""
    print(text, flush=True)  # noqa: T201  # this is a program


def main() -> int:
    """Run what was asked for, and return the exit status."""
    options = _parse()
    lists = exemptions.read()
    options.build.mkdir(parents=True, exist_ok=True)
    try:
        with (options.build / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another run would change the environments of this one
            runs, complete = session.run(
                [suite for name, suite in SUITES.items() if name in (options.suite or SUITES)],
                [loop for loop in loops.FACTORIES if loop in (options.loop or loops.FACTORIES)],
                options.python,
                Store(options.build, say),
                lists,
                say,
                retries=options.retries,
                wheel=options.wheel,
            )
    except PreparationError as problem:
        say(problem)
        return _NOT_RUN
    except KeyboardInterrupt:
        return _INTERRUPTED
    verdict = judge(runs, lists, complete)
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
    add("--suite", action="append", choices=[*SUITES], help="only this one; may be repeated")
    add("--loop", action="append", choices=loops.FACTORIES, help="only this one; may be repeated")
    add(
        "--python",
        action="append",
        choices=PYTHONS,
        help="only this version, and every suite on it; may be repeated",
    )
    add("--retries", type=int, default=0, help="how often a run with a failure is repeated (default: 0)")
    add("--reruns", type=Path, metavar="FILE", help="append here what passed only when it was repeated")
    add("--wheel", type=Path, metavar="FILE", help="test this wheel, rather than one built from the tree")
    add("--build", type=Path, default=_BUILD, metavar="FOLDER", help="where to keep what is made once")
    add("--update-docs", action="store_true", help="write the table into the documentation")
    options = parser.parse_args()
    if options.update_docs and (options.suite or options.loop or options.python):
        parser.error("--update-docs is for a run of everything")
    return options


if __name__ == "__main__":
    sys.exit(main())
