"""Runs the groups of measurements, everybody in turn, round after round."""

import subprocess
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import peer_programs
from benchmarks.interpreters import Interpreter, MeasurementError
from benchmarks.matrix import Group, Measurement, PeerRun
from benchmarks.peer_programs import Peer
from benchmarks.results import NO_PYTHON, Record, Results


class Driver:
    """Measures, shows how far it is, and keeps what came out."""

    def __init__(self, results: Results, interpreters: list[Interpreter], console: Console) -> None:
        self._results = results
        self._interpreters = {interpreter.name: interpreter for interpreter in interpreters}
        self._console = console
        self._peers: dict[Peer, str | None] = {}

    def build_peers(self, groups: list[Group]) -> None:
        """Build the peers that the groups need, and say which are not present."""
        wanted = {m.what.peer for group in groups for m in group.measurements if isinstance(m.what, PeerRun)}
        for peer in peer_programs.ALL:
            if peer in wanted:
                self._peers[peer] = version = peer_programs.build(peer)
                self._console.print(f"[dim]{peer.label}: {version or f'not present ({peer.tool})'}[/]")
        self._results.about["peers"] = {peer.label: version for peer, version in self._peers.items()}

    def run(self, groups: list[Group]) -> None:
        """Run everything. What fails is kept as such and does not end the run."""
        columns = (
            TextColumn("{task.description:<60.60}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        )  # fmt: skip
        with Progress(*columns, console=self._console, transient=True) as progress:
            turns = [turn for group in groups for turn in self._turns(group)]
            bar = progress.add_task("", total=len(turns))
            for group, number, measurement, python in turns:
                name = " · ".join(
                    filter(None, (group.name, measurement.label, measurement.condition, python))
                )
                progress.update(bar, description=f"{name}, round {number + 1} of {group.rounds}")
                record = self._measure(group, number, measurement, python)
                self._results.records.append(record)
                if record.error is not None:
                    self._console.print(f"[red]failed:[/] {escape(name)}: {escape(record.error)}")
                elif not self._console.is_terminal:
                    self._console.print(f"{name}, round {number + 1} of {group.rounds}")
                progress.advance(bar)

    def _turns(self, group: Group) -> Iterator[tuple[Group, int, Measurement, str]]:
        """Everybody once in each round; who begins changes, since the first may find it quieter."""
        once = [
            (measurement, python)
            for measurement in group.measurements
            for python in ([NO_PYTHON] if isinstance(measurement.what, PeerRun) else self._interpreters)
        ]
        for number in range(group.rounds):
            start = number * len(once) // group.rounds
            for measurement, python in once[start:] + once[:start]:
                yield group, number, measurement, python

    def _measure(self, group: Group, number: int, measurement: Measurement, python: str) -> Record:
        outcome, absent, error = None, None, None
        try:
            if isinstance(what := measurement.what, PeerRun):
                if self._peers[what.peer] is None:
                    absent = what.peer.tool
                else:
                    values = peer_programs.run(what.peer, what.arguments)
                    outcome = {"values": values, "histograms": {}}
            elif (absent := self._interpreters[python].lacks(what)) is None:
                outcome = self._interpreters[python].measure(what)
        except MeasurementError as problem:
            error = str(problem)
        except subprocess.SubprocessError as problem:
            error = f"{problem} {getattr(problem, 'stderr', '') or ''}"
        return Record(
            group.name, measurement.label, measurement.condition, python, number, outcome, absent, error
        )
