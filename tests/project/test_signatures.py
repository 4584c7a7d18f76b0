"""The options: listed once, and the same wherever a child is started."""

from __future__ import annotations

import ast
import inspect
import pathlib
import re
import subprocess
import sys
import typing
from collections.abc import Callable
from typing import Any, get_type_hints

import pytest

import aiovfork
from aiovfork import _checks, _native, _options, _plan, _steps, _terms
from tools import options as page_of_options
from tools import signatures

ROOT = pathlib.Path(__file__).parents[2]
FUNCTIONS: list[Callable[..., Any]] = [
    aiovfork.create_subprocess_exec,
    aiovfork.create_subprocess_shell,
    aiovfork.subprocess_exec,
    aiovfork.subprocess_shell,
    aiovfork.SubprocessLoopMixin.subprocess_exec,
    aiovfork.SubprocessLoopMixin.subprocess_shell,
]
# A value of each option that is passed on to the child, other than its default.
SAMPLES: dict[str, Any] = {
    "executable": "/bin/false",
    "cwd": "/",
    "env": {},
    "close_fds": False,
    "pass_fds": [5],
    "start_new_session": True,
    "process_group": 0,
    "umask": 0o22,
    "restore_signals": False,
    "pipesize": 4096,
    "user": 0,
    "group": 0,
    "extra_groups": [],
    "rlimits": {7: 5},
    "nice": 1,
    "cpu_affinity": [0],
    "scheduler": 0,
    "io_priority": 3,
    "oom_score_adj": 0,
    "pdeathsig": 9,
    "no_new_privs": True,
    "signal_mask": [],
    "default_signals": [15],
    "ignored_signals": [15],
    "chroot": "/",
    "cgroup": "/",
    "controlling_tty": 0,
    "foreground": True,
    "fd_map": {5: 0},
    "listen_fds": [0],
    "capabilities": aiovfork.Capabilities(ambient=()),
    "unshare": 0x40000000,
    "best_effort": ["nice"],
}


def options_names(function: Callable[..., Any]) -> set[str]:
    """The names of all parameters."""
    return set(inspect.signature(function).parameters)


def options_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a function that are options."""
    parameters = inspect.signature(function).parameters
    others = {"self", "protocol_factory", "program", "cmd", "args", "stdin", "stdout", "stderr", "limit"}
    others |= {"teardown", "on_cancel", "own_cgroup", "pty"}  # of what returns a Process
    return {name: parameter for name, parameter in parameters.items() if name not in others}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__qualname__)
def test_every_function_has_the_options(function: Callable[..., Any]) -> None:
    """Each has every option as a keyword of its own, in one order, with one type and one default; no **options."""
    options = options_of(function)
    assert list(options) == list(_options.Options._fields)
    assert {parameter.kind for parameter in options.values()} == {inspect.Parameter.KEYWORD_ONLY}
    declared = get_type_hints(aiovfork.SpawnOptions)
    hints = get_type_hints(function)
    assert {name: hints[name] for name in options} == declared
    defaults = {**_options.Options._field_defaults, "shell": function.__name__.endswith("shell")}
    assert {name: parameter.default for name, parameter in options.items()} == defaults


@pytest.mark.skipif(
    not signatures.PACKAGE.exists(), reason="the sources of the package are not here: make test asks this"
)
def test_what_repeats_the_options_is_up_to_date() -> None:
    """Every signature, TypedDict and tuple says what Options says; a new row there reaches each of them."""
    options = signatures.described(signatures.DESCRIPTION.read_text())
    rows = options.copy()
    rows.insert(1, signatures.Option("gloves", "int", "2"))
    for name, found in signatures.places(options).items():
        source = (signatures.PACKAGE / name).read_text()
        assert signatures.filled_in(source, options, found) == source, "run: python -m tools.signatures"
    for name, found in signatures.places(rows).items():
        source = signatures.filled_in((signatures.PACKAGE / name).read_text(), rows, found)
        if name != "_options.py":
            assert source.count("    gloves: int = 2,") == len(found)
            assert len(re.findall(r"^ +\w+, gloves, |^ +None, gloves, ", source, re.MULTILINE)) == len(found)
        else:
            assert source.count("    gloves: int\n") == 1


def test_every_option_of_asyncio_is_one_of_ours() -> None:
    """Whatever Popen takes, and asyncio's functions do not set themselves, can be named here."""
    popen = set(inspect.signature(subprocess.Popen).parameters) - {"args", "stdin", "stdout", "stderr"}
    assert popen <= set(_options.Options._fields)
    assert popen == _native.POPENS


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__qualname__)
def test_every_option_arrives_as_itself(
    function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is given as one option is not taken for another."""

    def stop(options: tuple[object, ...], *, in_shell: bool) -> None:
        raise StopIteration(options)

    given = {name: object() for name in _options.Options._fields}
    module = sys.modules[function.__module__]
    monkeypatch.setattr(module, "checked", stop)
    arguments = [None] * (function.__qualname__.count(".") + ("protocol_factory" in options_names(function)))
    with pytest.raises(RuntimeError) as info:  # what a coroutine makes of StopIteration
        function(*arguments, "true", **given).send(None)
    cause: Any = info.value.__cause__
    assert cause.value == tuple(given.values())


@pytest.mark.parametrize("function", FUNCTIONS[:4], ids=lambda function: function.__qualname__)
def test_a_misspelt_option(function: Callable[..., Any]) -> None:
    """The TypeError names the function that was called, and no class inside."""
    with pytest.raises(
        TypeError, match=rf"^{function.__name__}\(\) got an unexpected keyword argument 'cwdd'"
    ):
        function("true", "true", cwdd="/")


def test_no_option_is_forgotten() -> None:
    """Each option is a step of the plan, read by the plan, refused, or checked by name: one of these."""
    places = [
        {option: None for option, _, _ in _steps.STEPS},
        _steps.BUILT_IN,
        [option for option, _, _ in _checks.REFUSED],
        _checks.CHECKED - _steps.BUILT_IN,
    ]
    handled = [option for place in places for option in place]
    assert sorted(handled) == sorted(_options.Options._fields)


@pytest.mark.parametrize(
    "option", sorted({*_steps.BUILT_IN, *(option for option, _, _ in _steps.STEPS)} - {"cgroup"})
)
def test_every_option_changes_the_plan(option: str) -> None:
    """An option that the plan is said to read makes it another one."""
    blocks = [
        _plan.build(_options.Command(("true",), None, None, None, options)).block
        for beside in [_options.Options(nice=1) if option == "best_effort" else _options.Options()]
        for options in (beside, beside._replace(**{option: SAMPLES[option]}))
    ]
    assert blocks[0] != blocks[1]


def test_the_options_that_mean_something() -> None:
    """What run() and the like take is every option but those that are refused, in the same order."""
    refused = [option for option, _, _ in _checks.REFUSED] + ["shell"]
    assert list(_options.CHILD_OPTIONS) == [name for name in _options.Options._fields if name not in refused]


@pytest.mark.parametrize("in_shell", [False, True])
def test_a_group_of_its_own(in_shell: bool) -> None:
    """A child has a process group of its own, by its session if it has one; or the group that is asked for."""

    def chosen(**given: Any) -> _options.Options:
        defaults = {**_options.Options._field_defaults, "process_group": 0, **given}
        values = tuple(defaults[name] for name in _options.CHILD_OPTIONS)
        return _checks.grouped(values, in_shell=in_shell)

    usual = _options.Options(process_group=0, shell=in_shell)
    assert chosen() == usual
    assert chosen() is chosen()
    assert chosen(cwd="/") == usual._replace(cwd="/")
    assert chosen(process_group=None) == usual._replace(process_group=None)
    assert chosen(start_new_session=True) == usual._replace(start_new_session=True, process_group=None)
    with pytest.raises(ValueError, match="spawn_timeout must be positive"):
        chosen(spawn_timeout=-1)


RUNNERS: list[Callable[..., Any]] = [aiovfork.run, aiovfork.run_shell]


@pytest.mark.parametrize("function", RUNNERS, ids=lambda function: function.__name__)
def test_run_has_its_options(function: Callable[..., Any]) -> None:
    """RunOptions names every keyword, with its type, and those of a spawn are the options that mean something."""
    keywords = options_of_run(function)
    hints = get_type_hints(function)
    assert {name: hints[name] for name in keywords} == get_type_hints(aiovfork.RunOptions)
    assert {parameter.kind for parameter in keywords.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert list(keywords)[-len(_options.CHILD_OPTIONS) :] == list(_options.CHILD_OPTIONS)
    declared = get_type_hints(aiovfork.SpawnOptions)
    defaults = {**_options.Options._field_defaults, "process_group": 0}
    for name in _options.CHILD_OPTIONS:
        assert (hints[name], keywords[name].default) == (declared[name], defaults[name])


MEMBERS: list[Callable[..., Any]] = [
    aiovfork.ProcessGroup.start,
    aiovfork.ProcessGroup.start_shell,
    aiovfork.ProcessGroup.run,
    aiovfork.supervise,
]


@pytest.mark.parametrize("function", MEMBERS, ids=lambda function: function.__qualname__)
def test_members_have_the_options(function: Callable[..., Any]) -> None:
    """What starts a member of a group takes the options that mean something, and gives it a group of its own."""
    parameters = inspect.signature(function).parameters
    hints, declared = get_type_hints(function), get_type_hints(aiovfork.SpawnOptions)
    assert list(parameters)[-len(_options.CHILD_OPTIONS) :] == list(_options.CHILD_OPTIONS)
    defaults = {**_options.Options._field_defaults, "process_group": 0}
    for name in _options.CHILD_OPTIONS:
        assert (hints[name], parameters[name].default) == (declared[name], defaults[name])
        assert parameters[name].kind == inspect.Parameter.KEYWORD_ONLY
    assert parameters["stdin"].default == aiovfork.DEVNULL


def test_a_groups_run_is_run() -> None:
    """ProcessGroup.run() takes what run() takes, but for what the group says for all."""
    of_group = inspect.signature(aiovfork.ProcessGroup.run).parameters
    of_run = inspect.signature(aiovfork.run).parameters
    left_out = [name for name in of_run if name not in of_group]
    assert left_out == ["stop_signal", "patience", "tree", "on_cancel", "pty"]
    assert [name for name in of_run if name in of_group] == list(of_group)[1:]
    for name in list(of_group)[1:]:
        assert of_group[name] == of_run[name]


def options_of_run(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Every parameter but the command."""
    parameters = inspect.signature(function).parameters
    return {name: parameters[name] for name in parameters if name not in {"program", "args", "command"}}


@pytest.mark.parametrize("function", RUNNERS, ids=lambda function: function.__name__)
def test_every_option_of_run_arrives_as_itself(
    function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is given as one keyword of run() is not taken for another."""
    found: dict[str, Any] = {}
    given = {name: object() for name in options_of_run(function)}
    usual = _options.Options()

    def grouped(options: tuple[object, ...], *, in_shell: bool) -> _options.Options:
        found.update(zip(_options.CHILD_OPTIONS, options, strict=True))
        return usual

    def agreed(terms: tuple[object, ...], options: object) -> object:
        found.update(zip(_terms.TERMS, terms, strict=True))
        return usual

    def stdin_of(stdin: object, data: object, terms: object) -> tuple[object, object]:
        found.update(stdin=stdin, input=data)
        return stdin, data

    async def complete(command: _options.Command, data: object, terms: object) -> None:
        found.update(stdout=command.stdout, stderr=command.stderr)

    def pty_of(value: object) -> None:
        found.update(pty=value)

    module = sys.modules[function.__module__]
    for replacement in (grouped, agreed, stdin_of, complete, pty_of):
        monkeypatch.setattr(module, replacement.__name__, replacement)
    with pytest.raises(StopIteration):
        function("true", **given).send(None)
    assert found == given


def test_every_option_is_described_once() -> None:
    """SpawnOptions describes each option, RunOptions the others of run(), and the pages say what they say."""
    assert list(page_of_options.described(aiovfork.SpawnOptions)) == list(_options.Options._fields)
    of_run = [name for name in options_of_run(aiovfork.run) if name not in _options.CHILD_OPTIONS]
    assert list(page_of_options.described(aiovfork.RunOptions)) == of_run
    for path, (options, function) in page_of_options.PAGES.items():
        page = path.read_text()
        assert page_of_options.fill_in(page, options, function) == page, "run: python -m tools.options"


def public_functions() -> dict[str, Callable[..., Any]]:
    """Every public function, and every public method and property of a public class."""
    found: dict[str, Callable[..., Any]] = {}
    for name in aiovfork.__all__:
        thing = getattr(aiovfork, name)
        if inspect.isfunction(thing):
            found[name] = thing
        elif inspect.isclass(thing):
            for member, value in vars(thing).items():
                function = value.fget if isinstance(value, property) else value
                if inspect.isfunction(function) and (
                    member[0] != "_" or member in {"__init__", "__aenter__"}
                ):
                    found[f"{name}.{member}"] = function
    return found


@pytest.mark.parametrize("name", sorted(public_functions()))
def test_annotations_can_be_read(name: str) -> None:
    """typing.get_type_hints works on every public function and method, and finds what it returns."""
    hints = get_type_hints(public_functions()[name])
    assert "return" in hints or name.startswith("SpawnInfo.")


def test_nothing_is_imported_for_type_checkers_only() -> None:
    """What an annotation names can be found when the program runs."""
    guarded = [
        path.name
        for path in (ROOT / "aiovfork").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name) and node.id == "TYPE_CHECKING"
    ]
    assert not guarded


def test_the_signature_is_what_help_shows() -> None:
    """help() of a function names the options."""
    text = subprocess.check_output(
        [sys.executable, "-c", "import aiovfork; help(aiovfork.create_subprocess_exec)"], text=True
    )
    assert "start_new_session" in text.split("Args:")[0]
    assert typing.get_type_hints(aiovfork.create_subprocess_exec)["return"] is aiovfork.Process
