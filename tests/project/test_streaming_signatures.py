"""The keywords of lines() and pipeline(): those of every spawn, and their own; what is given arrives as itself."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any, get_type_hints

import pytest

import aiovfork
from aiovfork import _lines, _options, _pipeline, _terms

#: What a pipeline cannot have: one program for all, a session that others join, and its terminal.
NOT_OF_A_PIPELINE = {"executable", "start_new_session", "controlling_tty"}


def keywords_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keywords of a function."""
    parameters = inspect.signature(function).parameters
    return {name: value for name, value in parameters.items() if value.kind is inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize(
    "function", [aiovfork.lines, aiovfork.pipeline], ids=lambda function: function.__name__
)
def test_the_options_of_a_spawn(function: Callable[..., Any]) -> None:
    """Each has the options that mean something to it, with the types and defaults that they have elsewhere."""
    left_out = NOT_OF_A_PIPELINE if function is aiovfork.pipeline else set()
    options = [name for name in _options.CHILD_OPTIONS if name not in left_out]
    keywords, hints = keywords_of(function), get_type_hints(function)
    declared = get_type_hints(aiovfork.SpawnOptions)
    defaults = {**_options.Options._field_defaults, "process_group": 0}
    assert list(keywords)[-len(options) :] == options
    for name in options:
        assert (hints[name], keywords[name].default) == (declared[name], defaults[name])


@pytest.mark.parametrize(
    ("function", "options", "others"),
    [
        (aiovfork.lines, _lines._LinesOptions, {"source", "encoding"}),
        (aiovfork.pipeline, _pipeline._PipelineOptions, {"encoding"}),
    ],
    ids=["lines", "pipeline"],
)
def test_type_checkers_know_every_keyword(
    function: Callable[..., Any], options: type, others: set[str]
) -> None:
    """The overloads name each keyword, with its type, and no other."""
    hints = get_type_hints(function)
    expected = {name: hints[name] for name in keywords_of(function) if name not in others}
    assert get_type_hints(options) == expected


@pytest.mark.parametrize(
    "function", [aiovfork.lines, aiovfork.pipeline], ids=lambda function: function.__name__
)
def test_what_run_has_too(function: Callable[..., Any]) -> None:
    """A keyword that run() has is the same here: its type, but for a narrower choice, and its default."""
    here, there = keywords_of(function), keywords_of(aiovfork.run)
    different = {
        name: here[name].default
        for name in here.keys() & there.keys()
        if here[name].default != there[name].default
    }
    assert different == ({"encoding": "utf-8", "errors": "replace"} if function is aiovfork.lines else {})


@pytest.mark.parametrize(
    "function", [aiovfork.lines, aiovfork.pipeline], ids=lambda function: function.__name__
)
def test_what_is_given_arrives_as_itself(
    function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is given as one keyword is not taken for another."""
    module = sys.modules[function.__module__]
    fixed = {
        "source": "both",
        "stdout": aiovfork.PIPE,
        "stderr": aiovfork.PIPE,
        "tree": None,
        "on_cancel": "stop",
    }
    given: dict[str, Any] = {name: fixed.get(name) or object() for name in keywords_of(function)}
    given["tree"] = None
    found: dict[str, Any] = {}

    def grouped(options: tuple[object, ...], *, in_shell: bool) -> _options.Options:
        found.update(zip(_options.CHILD_OPTIONS, options, strict=True))
        return _options.Options()

    def agreed(terms: tuple[object, ...], options: object) -> _terms.Terms:
        found.update(zip(_terms.TERMS, terms, strict=True))
        return _terms.Terms()

    def stdin_of(stdin: object, data: object, terms: object) -> tuple[object, object]:
        found.update(stdin=stdin, input=data)
        return stdin, data

    def form(*about: object) -> None:
        found.update(zip(["encoding", "errors", "newlines", "max_line", "on_long"], about, strict=True))

    def lines_of(command: _options.Command, source: object, *others: object) -> None:
        found.update(source=source, stdout=command.stdout, stderr=command.stderr)

    async def complete(
        commands: list[_options.Command], data: object, terms: object, *, pipefail: object
    ) -> None:
        found.update(pipefail=pipefail, stdout=commands[-1].stdout, stderr=commands[0].stderr)

    def pty_of(value: object) -> None:
        found.update(pty=value)

    for name, replacement in {
        "pty_of": pty_of,
        "grouped": grouped,
        "agreed": agreed,
        "stdin_of": stdin_of,
        "Form": form,
        "Lines": lines_of,
        "complete": complete,
    }.items():
        monkeypatch.setattr(module, name, replacement, raising=False)
    if function is aiovfork.pipeline:
        with pytest.raises(StopIteration):
            function(["true"], **given).send(None)
    else:
        function("true", **given)
    assert {name: found[name] for name in given} == given
