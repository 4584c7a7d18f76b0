"""pty=: programs on a terminal of their own, driven from the other side of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import pathlib
import pickle
import re
import resource
import signal
import sys
import threading
import warnings
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest

import aiovfork
from aiovfork import DEVNULL, PIPE, STDOUT, Pty, _ptmx
from tests.support.isolated import isolated

ENV = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PS1": "@> ", "TERM": "dumb", "LANG": "C.UTF-8"}
PYTHON = [sys.executable, "-ISc"]
SHELLS = [["bash", "--norc", "--noprofile", "--noediting", "-i"], ["dash", "-i"]]
PROMPT = "@> "
# What a program finds of its terminal.
LOOK = """
import fcntl, json, os, struct, sys, termios
tty = os.open("/dev/tty", os.O_RDWR)
modes = termios.tcgetattr(tty)
print(json.dumps({
    "tty": [os.isatty(n) for n in range(3)],
    "same": len({os.ttyname(n) for n in range(3) if os.isatty(n)}),
    "session": os.getsid(0) == os.getpid() == os.tcgetpgrp(tty),
    "size": list(os.get_terminal_size(tty)),
    "echo": bool(modes[3] & termios.ECHO),
    "lines": bool(modes[3] & termios.ICANON),
    "open": sorted(set(map(int, os.listdir("/proc/self/fd"))) - {tty})[:-1],
}), flush=True)
"""


@contextlib.asynccontextmanager
async def started(*command: str, **options: Any) -> AsyncIterator[tuple[aiovfork.Process, aiovfork.Terminal]]:
    """A program on a terminal, and that."""
    async with await aiovfork.create_subprocess_exec(
        *command, **{"pty": True, "env": ENV, **options}
    ) as process:
        assert process.pty is not None
        yield process, process.pty


async def shown(terminal: aiovfork.Terminal, *lines: str, until: str = PROMPT) -> str:
    """Type lines, and return what the last one makes a shell show, without the line itself."""
    before = ""
    for line in lines:
        terminal.writer.write(f"{line}\n".encode())
        await terminal.expect(f"{line}\r\n", timeout=20)
        before = (await terminal.expect(until, timeout=20)).before
    return before


async def looked(**options: Any) -> Any:
    """What a program finds of its terminal."""
    done = await aiovfork.run(*PYTHON, LOOK, input=b"", **options)
    return json.loads(done.stdout)


async def test_what_a_child_has() -> None:
    """The terminal is on all three streams and the controlling one of a session of its own; nothing else is open."""
    assert await looked(pty=Pty(rows=40, cols=132)) == {
        "tty": [True, True, True],
        "same": 1,
        "session": True,
        "size": [132, 40],
        "echo": True,
        "lines": True,
        "open": [0, 1, 2],
    }
    found = await looked(pty=Pty(echo=False))
    assert (found["size"], found["echo"], found["lines"]) == ([80, 24], False, True)
    found = await looked(pty=Pty(raw=True))
    assert (found["echo"], found["lines"]) == (False, False)


async def test_what_a_process_has() -> None:
    """process.pty is the terminal; stdin, stdout, stderr are None, and the transport has no pipes for them."""
    async with started("sleep", "1000") as (process, terminal):
        assert (process.stdin, process.stdout, process.stderr) == (None, None, None)
        assert process._transport.get_extra_info("pty") is terminal
        assert [process._transport.get_pipe_transport(fd) for fd in range(3)] == [None, None, None]
        assert repr(terminal) == "<Terminal 24x80>"
    assert repr(terminal) == "<Terminal closed>"
    process = await aiovfork.create_subprocess_exec("true")
    await process.wait()
    assert process.pty is None
    assert process._transport.get_extra_info("pty") is None


async def test_streams_that_are_given() -> None:
    """What is given stays what it is, and the terminal is on the others; it can always be opened as /dev/tty."""
    code = "import os,sys; print(os.isatty(0), os.isatty(1), os.isatty(2), file=open('/dev/tty', 'w')); print('out')"
    async with started(*PYTHON, code, stdin=DEVNULL, stdout=PIPE) as (process, terminal):
        assert (await terminal.expect("\r\n", timeout=20)).before == "False False True"
        assert process.stdout is not None
        assert await process.stdout.read() == b"out\n"
        assert process.stderr is None
    async with started("sh", "-c", "echo one >&2; read x; echo $x", stdout=PIPE, stderr=STDOUT) as (
        process,
        terminal,
    ):
        terminal.writer.write(b"two\n")
        stdout, _ = await process.communicate()
        assert stdout == b"one\ntwo\n"
        assert await terminal.reader.read() == b"two\r\n"


async def test_the_debug_log(caplog: pytest.LogCaptureFixture) -> None:
    """In debug mode the log names the streams that are on the terminal, as asyncio names pipes."""
    asyncio.get_running_loop().set_debug(True)
    with caplog.at_level("DEBUG", "asyncio"):
        async with started("cat", stderr=PIPE) as (_, terminal):
            terminal.send_eof()
            assert await terminal.reader.read() == b""
    messages = list(caplog.messages)
    caplog.clear()  # records keep the loop
    assert "execute program 'cat' stdin=<pty> stdout=<pty> stderr=<pipe>" in messages


async def test_refusals() -> None:
    """What cannot be had is a TypeError or ValueError at the call, and nothing was made."""
    create = aiovfork.create_subprocess_exec
    with pytest.raises(ValueError, match="all of them are given"):
        await create("true", stdin=PIPE, stdout=PIPE, stderr=STDOUT, pty=True)
    with pytest.raises(ValueError, match="no process_group"):
        await create("true", process_group=1, pty=True)
    with pytest.raises(ValueError, match="no controlling_tty"):
        await create("true", start_new_session=True, controlling_tty=0, pty=True)
    with pytest.raises(TypeError, match="pty must be a bool or a Pty, not int"):
        await create("true", pty=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="source='stdout'"):
        aiovfork.lines("true", source="both", pty=True)
    for rows, cols in ((0, 80), (24, 65536)):
        with pytest.raises(ValueError, match="between 1 and 65535"):
            Pty(rows, cols)
    with pytest.raises(TypeError):
        Pty(rows="24")  # type: ignore[arg-type]


# ---- keys, sizes, jobs ----


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a child another user")
async def test_another_user() -> None:
    """A program with other credentials has its terminal, too: the launcher comes after it."""
    command = "id -u; test -t 0 && test -t 1 && test -t 2 && echo open >/dev/tty"
    done = await aiovfork.run(
        "sh", "-c", command, pty=True, user=65534, group=65534, extra_groups=[], cwd="/"
    )
    assert done.stdout == b"65534\r\nopen\r\n"


async def test_keys() -> None:
    """interrupt() sends SIGINT to what runs in the foreground; send_eof() is the end of what it reads."""
    async with started("sh", "-c", "trap 'echo caught; trap - INT' INT; cat; cat; echo over") as (
        process,
        terminal,
    ):
        terminal.writer.write(b"line\n")
        await terminal.expect(b"line\r\nline\r\n", timeout=20)
        terminal.interrupt()
        await terminal.expect(b"^Ccaught\r\n", timeout=20)
        terminal.send_eof()
        assert (await terminal.expect(b"over\r\n", timeout=20)).before == b""
        assert await terminal.reader.read() == b""
        assert await process.wait() == 0
        terminal.interrupt()  # nobody hears it
        terminal.send_eof()
        terminal.resize(1, 1)
        assert terminal.size == (0, 0)


async def test_a_program_that_reads_keys_gets_the_keys() -> None:
    """On a raw terminal interrupt() and send_eof() are two bytes, and a newline is one."""
    async with started("sh", "-c", r"printf 'a\n'; head -c 2 | od -An -tx1", pty=Pty(raw=True)) as (
        _,
        terminal,
    ):
        await terminal.expect(b"a\n", timeout=20)
        terminal.interrupt()
        terminal.send_eof()
        assert (await terminal.reader.read()).split() == [b"03", b"04"]


async def test_resize() -> None:
    """resize() gives the terminal another size, of which its program hears by SIGWINCH."""
    code = """
import os, signal
signal.signal(signal.SIGWINCH, lambda *_: os.write(1, b"%d %d\\n" % tuple(os.get_terminal_size(0))))
os.write(1, b"ready\\n")
while True: signal.pause()
"""
    async with started(*PYTHON, code, pty=Pty(rows=10, cols=20)) as (_, terminal):
        await terminal.expect("ready", timeout=20)
        assert terminal.size == (10, 20)
        terminal.resize(30, 40)
        await terminal.expect("40 30\r\n", timeout=20)
        assert terminal.size == (30, 40)
        with pytest.raises(ValueError, match="rows must be between"):
            terminal.resize(0, 40)


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: str(shell[0]))
async def test_jobs(shell: list[str]) -> None:
    """A shell has job control: a program is stopped by ^Z, goes on in the background and in the foreground, ends by ^C."""
    async with started(*shell) as (process, terminal):
        await terminal.expect(PROMPT, timeout=20)
        assert "job control" not in await shown(terminal, "echo $-")
        terminal.writer.write(b"cat\n")
        await terminal.expect("cat\r\n", timeout=20)
        terminal.writer.write(b"said\n")
        await terminal.expect("said\r\nsaid\r\n", timeout=20)
        terminal.writer.write(b"\x1a")
        assert "Stopped" in (await terminal.expect(PROMPT, timeout=20)).before
        assert "Stopped" in await shown(terminal, "jobs")
        terminal.writer.write(b"fg\n")
        await terminal.expect("cat\r\n", timeout=20)
        terminal.writer.write(b"again\n")
        await terminal.expect("again\r\nagain\r\n", timeout=20)
        terminal.interrupt()
        await terminal.expect(PROMPT, timeout=20)
        await shown(terminal, "sleep 1000 &")
        assert "Running" in await shown(terminal, "jobs")
        await shown(terminal, "kill -9 %1", "cat &")
        terminal.writer.write(b"fg\n")  # it has been stopped by SIGTTIN, or will be
        await terminal.expect("cat\r\n", timeout=20)
        terminal.writer.write(b"third\n")
        await terminal.expect("third\r\nthird\r\n", timeout=20)
        terminal.send_eof()
        await terminal.expect(PROMPT, timeout=20)
        terminal.writer.write(b"exit 7\n")
        assert await process.wait() == 7


async def test_stty() -> None:
    """stty finds the size, and sets what the terminal does: with -echo, what is typed is not shown."""
    command = "stty size; stty -echo; echo typed:; read x; stty echo; echo again:; read y; echo $x $y"
    async with started("sh", "-c", command, pty=Pty(rows=33, cols=99)) as (_, terminal):
        assert (await terminal.expect("typed:\r\n", timeout=20)).before == "33 99\r\n"
        terminal.writer.write(b"hidden\n")
        assert (await terminal.expect("again:\r\n", timeout=20)).before == ""
        terminal.writer.write(b"shown\n")
        assert await terminal.reader.read() == b"shown\r\nhidden shown\r\n"


async def test_a_password() -> None:
    """A program that asks for a password, through /dev/tty and without echo, gets it, and it is not shown."""
    code = "import getpass; print('got', getpass.getpass('Password: '))"
    async with started(*PYTHON, code, stdin=DEVNULL) as (process, terminal):
        assert (await terminal.expect("Password: ", timeout=20)).before == ""
        terminal.writer.write(b"secret\n")
        assert await terminal.reader.read() == b"\r\ngot secret\r\n"
        assert await process.wait() == 0


async def test_an_interpreter() -> None:
    """python -q talks to a terminal: prompts, answers, ends by ^D."""
    env = {**ENV, "PYTHON_BASIC_REPL": "1", "PYTHONSTARTUP": ""}
    async with started(sys.executable, "-q", "-I", "-S", env=env) as (process, terminal):
        await terminal.expect(">>> ", timeout=20)
        assert "42" in await shown(terminal, "6 * 7", until=">>> ")
        assert "ZeroDivisionError" in await shown(terminal, "1 / 0", until=">>> ")
        terminal.send_eof()
        assert await process.wait() == 0


# ---- expect() ----

# Shows what it reads, and nothing else.
ECHO = Pty(echo=False)


async def test_patterns() -> None:
    """A pattern is text, bytes, or a compiled one of either; it is taken with what is before it, and nothing else is."""
    async with started("printf", "one two three: 42 f\xfcnf\n", pty=Pty(raw=True)) as (_, terminal):
        found = await terminal.expect(b"two", timeout=20)
        assert (found.before, found.match[0]) == (b"one ", b"two")
        text = await terminal.expect(re.compile(r"(?P<name>\w+): (\d+) "), timeout=20)
        assert (text.before, text.match["name"], text.match[2]) == (" ", "three", "42")
        assert (await terminal.expect("\xfc")).before == "f"
        assert (await terminal.expect(re.compile(b"f"))).before == b"n"
        assert await terminal.reader.readline() == b"\n"
        with pytest.raises(TypeError, match=r"must be str, bytes or re\.Pattern"):
            await terminal.expect(1)  # type: ignore[type-var]


async def test_text_in_pieces() -> None:
    """A character that comes in pieces is one; bytes that are no text are surrogates, and keep their places."""
    async with started("cat", pty=Pty(raw=True)) as (_, terminal):
        write = terminal.writer.write
        write(b"\xff<\xe2\x82")
        assert (await terminal.expect("<", timeout=20)).before == "\udcff"
        waiting = asyncio.ensure_future(terminal.expect(re.compile("."), timeout=20))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.01)
        write(b"\xac>")
        assert (await waiting).match[0] == "\N{EURO SIGN}"
        assert await terminal.reader.readexactly(1) == b">"


async def test_nothing_is_lost() -> None:
    """A time-out, a cancellation, and the end take nothing: what has come is in the error, and for the next one."""
    async with started("sh", "-c", "printf 'half a '; read x; printf line", pty=ECHO) as (process, terminal):
        await terminal.expect("half", timeout=20)
        with pytest.raises(TimeoutError) as late:
            await terminal.expect("line", timeout=0.05)
        assert isinstance(late.value, aiovfork.ExpectTimeout)
        assert late.value.before == " a "
        assert "'line' did not come within 0.05 s; what came ends with ' a '" in str(late.value)
        again = pickle.loads(pickle.dumps(late.value))  # noqa: S301  # our own
        assert (again.before, again.timeout, str(again)) == (" a ", 0.05, str(late.value))
        waiting = asyncio.ensure_future(terminal.expect(b"line"))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another coroutine"):
            await terminal.expect(b"other")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        terminal.writer.write(b"\n")
        with pytest.raises(EOFError) as ended:
            await terminal.expect("nothing")
        assert isinstance(ended.value, aiovfork.ExpectEnded)
        assert ended.value.before == " a line"
        assert pickle.loads(pickle.dumps(ended.value)).before == " a line"  # noqa: S301  # our own
        assert (await terminal.expect(b"line")).before == b" a "
        assert await terminal.reader.read() == b""
        await process.wait()


async def test_a_cancelled_read_loses_nothing() -> None:
    """What a cancelled read() has collected off the loop is what expect() looks through first."""
    async with started("sh", "-c", "echo one; read x; echo two", pty=ECHO) as (_, terminal):
        reading = asyncio.ensure_future(terminal.reader.read())
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await terminal.expect("one\r\n", timeout=20)
        terminal.writer.write(b"\n")
        await terminal.expect("two\r\n", timeout=20)


# ---- flow ----


async def test_backpressure() -> None:
    """A program that shows more than anybody reads waits; all of it comes in the end."""
    code = "import os; os.write(1, b'x' * 999_999 + b'!')"
    async with started(*PYTHON, code, limit=1000, pty=Pty(raw=True)) as (process, terminal):
        await terminal.expect("x", timeout=20)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.1)
        assert len((await terminal.expect("!", timeout=20)).before) == 999_998
        assert await process.wait() == 0


async def test_typing_much() -> None:
    """What is typed faster than it is read waits, in order; drain() waits with it."""
    async with started("sh", "-c", "read go; wc -c", pty=ECHO) as (_, terminal):
        line = b"y" * 99 + b"\n"
        for _ in range(20):
            terminal.writer.write(line * 100)
            await terminal.writer.drain()
        terminal.send_eof()
        assert (await terminal.reader.read()).strip() == b"199900"


async def test_the_end() -> None:
    """The terminal ends when nobody has it open: a program in the background keeps it, beyond the shell's exit."""
    async with started("sh", "-c", "trap '' HUP; sleep 1000 & echo $!") as (process, terminal):
        pid = int((await terminal.expect("\r\n", timeout=20)).before)
        assert await process.wait() == 0
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(terminal.reader.read(), 0.05)
        os.kill(pid, signal.SIGKILL)
        assert await terminal.reader.read() == b""


async def test_hanging_up() -> None:
    """close() hangs up: the session gets SIGHUP. It can be repeated, and what is written then goes nowhere."""
    async with started("sh", "-c", "echo ready; exec sleep 1000") as (process, terminal):
        await terminal.expect("ready", timeout=20)
        terminal.writer.close()  # does the same, after what was typed
        await terminal.writer.wait_closed()
        terminal.close()
        assert await process.wait() == -signal.SIGHUP
        assert await terminal.reader.read() == b"\r\n"
        terminal.writer.write(b"x")
        with pytest.raises(ConnectionResetError):
            await terminal.writer.drain()


async def test_closing_while_somebody_reads() -> None:
    """Whoever reads or expects when the terminal is closed finds its end."""
    async with started("sleep", "1000") as (_, terminal):
        reading = asyncio.ensure_future(terminal.reader.read())
        await asyncio.sleep(0)
        terminal.close()
        assert await reading == b""
    async with started("sleep", "1000") as (_, terminal):
        waiting = asyncio.ensure_future(terminal.expect("x"))
        await asyncio.sleep(0)
        terminal.close()
        with pytest.raises(aiovfork.ExpectEnded):
            await waiting


async def test_it_closes_itself() -> None:
    """Without `async with` too: a terminal that was read to its end is closed with the child's exit."""
    process = await aiovfork.create_subprocess_exec("echo", "said", pty=True)
    assert process.pty is not None
    assert await process.pty.reader.read() == b"said\r\n"
    assert await process.wait() == 0
    assert repr(process.pty) == "<Terminal closed>"


AWAY = """
trap back=1 USR1; exec </dev/null 2>/dev/null; echo away
while [ -z "$back" ]; do sleep 0.01; done
read typed </dev/tty; echo $typed
"""


async def test_a_program_may_let_go_of_its_terminal() -> None:
    """A program that closes its terminal is not hung up: it opens /dev/tty later, and reads what was typed meanwhile."""
    async with started("sh", "-c", AWAY, stdout=PIPE) as (process, terminal):
        assert process.stdout is not None
        assert await process.stdout.readline() == b"away\n"
        assert await terminal.reader.read() == b""
        terminal.writer.write(b"typed\n")
        process.send_signal(signal.SIGUSR1)
        assert await process.stdout.readline() == b"typed\n"
        assert await process.wait() == 0
    done = await aiovfork.run(
        "sh", "-c", "exec </dev/null >&0 2>&0; sleep 0.05; exit 5", pty=True, check=False
    )
    assert done.returncode == 5


GONE = "exec </dev/null >&0 2>&0; sleep 1000"


def collectors_time() -> float:
    """Seconds that the thread which types and reads for run() has computed."""
    for task in pathlib.Path("/proc/self/task").iterdir():
        if (task / "comm").read_text() == "aiovfork-output\n":
            return int((task / "schedstat").read_text().split()[0]) / 1e9
    return 0.0


async def test_typing_to_nobody() -> None:
    """What is typed when no program has the terminal open, and does not fit there, is dropped: nobody waits or spins."""
    async with started("sh", "-c", GONE) as (_, terminal):
        assert await terminal.reader.read() == b""
        terminal.writer.write(b"line\n" * 200_000)
        transport: Any = terminal.writer.transport
        assert transport.get_write_buffer_size() > 0
        while transport.get_write_buffer_size():
            await asyncio.sleep(0)
    before = collectors_time()
    with pytest.raises(aiovfork.ProcessTimeout):
        await aiovfork.run("sh", "-c", GONE, pty=True, input=b"line\n" * 200_000, timeout=0.3)
    assert collectors_time() - before < 0.05


# ---- run(), lines(), run_many() ----


async def test_run() -> None:
    """run() gives the terminal's end to a program that reads, and returns what the terminal showed, errors with it."""
    done = await aiovfork.run("sh", "-c", "cat; echo oh >&2", pty=True)
    assert (done.stdout, done.returncode, done.drained) == (b"oh\r\n", 0, True)
    assert not hasattr(done.stderr, "decode")  # None
    done = await aiovfork.run("cat", pty=Pty(echo=False), input=b"line\nhalf")
    assert done.stdout == b"line\r\nhalf"
    text = await aiovfork.run_shell("cat", pty=True, input="f\xfcr\n", encoding="utf-8")
    assert text.stdout == "f\xfcr\r\n" * 2
    raw = await aiovfork.run("head", "-c", "3", pty=Pty(raw=True), input=memoryview(b"\x03\x04\n"))
    assert raw.stdout == b"\x03\x04\n"


async def test_what_run_leaves_alone() -> None:
    """run() puts on the terminal what it would capture, and stdin; a stream that is given, or None, is what it says."""
    with open("/dev/null", "rb") as null:
        done = await aiovfork.run(
            *PYTHON, "import os; print([os.isatty(n) for n in range(3)])", pty=True, stdin=null
        )
    assert done.stdout == b"[False, True, True]\r\n"
    is_tty = await aiovfork.run("sh", "-c", "test -t 0 && test ! -t 1; test -t 2", pty=True, stdout=DEVNULL)
    assert (is_tty.returncode, is_tty.stdout) == (0, b"")


async def test_a_megabyte() -> None:
    """Much output comes whole, off the loop; much input is typed as it is read, and max_output ends the program."""
    code = "import os; os.write(1, b'0123456789abcde\\n' * 65536); os._exit(3)"
    done = await aiovfork.run(*PYTHON, code, pty=Pty(raw=True), check=False)
    assert (len(done.stdout), done.returncode) == (1 << 20, 3)
    assert done.stdout == b"0123456789abcde\n" * 65536
    typed = await aiovfork.run("sh", "-c", "sum", pty=ECHO, input=b"some line\n" * 20_000)
    assert typed.stdout == (await aiovfork.run("sum", input=b"some line\n" * 20_000)).stdout.replace(
        b"\n", b"\r\n"
    )
    with pytest.raises(aiovfork.OutputLimitExceeded) as over:
        await aiovfork.run("yes", pty=True, max_output=1000)
    assert over.value.output == b"y\r\n" * 333 + b"y"
    cut = await aiovfork.run(*PYTHON, code, pty=True, max_output=10, on_limit="truncate", check=False)
    assert (cut.stdout, cut.truncated, cut.returncode) == (b"0123456789", True, 3)


async def test_run_ends_a_program_on_a_terminal() -> None:
    """A time-out and a cancellation end the program with its group; what the terminal showed is in the error."""
    with pytest.raises(aiovfork.ProcessTimeout) as late:
        await aiovfork.run("sh", "-c", "echo said; sleep 1000", pty=True, timeout=0.2)
    assert late.value.output == b"said\r\n"
    task = asyncio.ensure_future(aiovfork.run("sleep", "1000", pty=True))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_run_ends_the_jobs_of_a_shell() -> None:
    """A job of a shell has a group of its own: tree="session" ends it too, for a terminal means a session."""
    command = ["bash", "--norc", "-mc", "sleep 1000 & echo $!; sleep 1000"]
    with pytest.raises(aiovfork.ProcessTimeout) as late:
        await aiovfork.run(*command, pty=True, tree="session", timeout=0.2)
    with contextlib.suppress(psutil.NoSuchProcess):
        assert psutil.Process(int(late.value.output)).status() == psutil.STATUS_ZOMBIE


async def test_run_and_a_background_program() -> None:
    """What a descendant shows is read for drain_timeout seconds more; then the terminal hangs up."""
    command = "trap '' HUP; sleep 1000 & echo $!"
    done = await aiovfork.run("sh", "-c", command, pty=True, drain_timeout=0.05)
    assert done.drained is False
    pid = int(done.stdout)
    os.kill(pid, signal.SIGKILL)


async def test_lines() -> None:
    """lines() reads the terminal, types the input and its end; the writer and the other keys are those of the process."""
    command = ("sh", "-c", "cat; echo err >&2; read x </dev/tty; echo got $x")
    async with aiovfork.lines(*command, pty=ECHO, input="one\ntwo\n", newlines="any") as output:
        assert [await anext(output) for _ in range(3)] == ["one", "two", "err"]
        terminal = output.process.pty
        assert terminal is not None
        assert terminal.size == (24, 80)
        with pytest.raises(RuntimeError, match="lines"):
            await terminal.expect("x")
        terminal.writer.write(b"more\n")
        assert [line async for line in output] == ["got more"]
    async with aiovfork.lines("cat", pty=True, stdin=PIPE, encoding=None) as output:
        assert output.stdin is not None
        output.stdin.write(b"typed\n")
        assert await anext(output) == b"typed\r"
        assert output.process.pty is not None
        output.process.pty.send_eof()
        output.stdin.close()  # does nothing
        assert [line async for line in output] == [b"typed\r"]


async def test_a_block_of_lines_that_is_left() -> None:
    """A block of lines() that is left early ends a program that shows things for ever, and closes the terminal."""
    async with aiovfork.lines("yes", pty=True, newlines="any") as output:
        async for line in output:
            assert line == "y"
            break
    assert output.process.pty is not None
    assert output.process.pty.size == (0, 0)


async def test_many_programs_on_terminals() -> None:
    """run_many() gives each of its programs a terminal of its own."""
    results = aiovfork.run_many([["tty"]] * 3, limit=3, pty=True)
    assert len({done.stdout async for done in results}) == 3


# ---- nothing is left ----


async def test_failures() -> None:
    """A start that fails, or is cancelled, leaves nothing; nor does one that finds no terminal."""
    for run in (aiovfork.create_subprocess_exec, aiovfork.run):
        with pytest.raises(FileNotFoundError):
            await run("/no/such/program", pty=True)
        task = asyncio.ensure_future(run("sleep", "1000", pty=True))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    output = aiovfork.lines("/no/such/program", pty=True)
    with pytest.raises(FileNotFoundError):
        async with output:
            pass


async def _without_numbers() -> Any:
    """Try to make a terminal with every number of descriptors that is too small; then with enough."""
    await aiovfork.run("true")
    highest = max(map(int, os.listdir("/proc/self/fd")))
    steps = set()
    for limit in range(3, highest + 40):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, 4096))
        try:
            done = await aiovfork.run("tty", pty=True)
        except OSError as exc:
            steps.add((type(exc).__name__, exc.step))  # type: ignore[attr-defined]
        else:
            return [sorted(steps), done.returncode]
    return None


@pytest.mark.slow
def test_too_few_descriptors() -> None:
    """Where no number is left for a terminal, the error says so, and its step is "pty"; nothing is left open."""
    steps, returncode = isolated(_without_numbers, loop="asyncio")
    assert ["SpawnError", "pty"] in steps
    assert returncode == 0


async def _closed_standard() -> Any:
    await aiovfork.run("true")
    os.closerange(0, 3)
    done = await aiovfork.run(*PYTHON, LOOK, pty=True)
    async with started("sh", "-c", "read x; echo $x") as (_, terminal):
        low = [number for number in terminal.ends.values() if number < 3]
        terminal.writer.write(b"typed\n")
        await terminal.expect("typed\r\ntyped\r\n", timeout=20)
    found = json.loads(done.stdout)
    return [found["tty"], found["session"], found["open"], low]


def test_closed_standard_streams() -> None:
    """Where 0, 1 and 2 are closed in the parent, no side of a terminal gets these numbers."""
    found = isolated(_closed_standard, loop="asyncio", check_leaks=False)
    assert found == [[True, True, True], True, [0, 1, 2], []]


async def _forked() -> Any:
    async with started("sh", "-c", "echo ready; exec sleep 1000") as (process, terminal):
        await terminal.expect("ready", timeout=20)
        read_end, write_end = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                names = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
                os.write(write_end, str(sum("/pt" in name for name in names)).encode())
                signal.pause()
            finally:
                os._exit(1)
        found = os.read(read_end, 10)
        terminal.close()
        returncode = await process.wait()  # the forked process does not keep the terminal from hanging up
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return [found.decode(), returncode]


def test_fork() -> None:
    """A process that fork() has made has no side of the terminals: closed in the parent, they hang up."""
    assert isolated(_forked, loop="asyncio", check_leaks=False) == ["0", -signal.SIGHUP]


def _forked_while_others_are_made() -> int:
    """Fork beside threads that make and close terminals; return how many children had a side of one."""
    over = threading.Event()

    def make() -> None:
        while not over.is_set():
            ends = _ptmx.Ends()
            _ptmx.open_terminal(ends, Pty())
            _ptmx.close_ends(ends)

    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    found = 0
    for _ in range(300):
        pid = os.fork()
        if not pid:
            names = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
            os._exit(any("/pt" in name for name in names))
        found += os.waitpid(pid, 0)[1] != 0
    over.set()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.slow
def test_fork_in_the_making() -> None:
    """A fork() at any moment, while other threads make and close terminals, copies no side of one."""
    assert isolated(_forked_while_others_are_made) == 0


def test_a_closed_loop() -> None:
    """A loop that is closed while a program runs on a terminal leaves neither: the terminal is closed with its Process."""
    for new_loop in (asyncio.SelectorEventLoop, aiovfork.new_event_loop):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            process: Any = runner.run(aiovfork.create_subprocess_exec("sleep", "1000", pty=True))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it was not closed
            del process
            gc.collect()
