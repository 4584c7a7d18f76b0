"""A session in a terminal: recorded as an asciicast v2, which asciinema plays, and its last screen drawn."""

import asyncio
import json
import sys
import time

import pyte

import aiovfork

SIZE = aiovfork.Pty(rows=6, cols=34)
ENV = {"PS1": "% ", "PATH": "/usr/bin:/bin", "TERM": "linux"}
TYPED = ("printf 'a \\033[1mterminal\\033[m:\\n'; tty", "test -t 0 && stty size", "exit")


async def main(path: str) -> None:
    """Type each line when the shell asks for it; write and draw what the terminal shows."""
    screen = pyte.Screen(SIZE.cols, SIZE.rows)
    stream = pyte.Stream(screen)
    began = time.monotonic()
    with open(path, "w", encoding="utf-8") as cast:  # noqa: ASYNC230  # a small one
        print(json.dumps({"version": 2, "width": SIZE.cols, "height": SIZE.rows}), file=cast)

        def show(text: str) -> None:
            print(json.dumps([round(time.monotonic() - began, 6), "o", text]), file=cast)
            stream.feed(text)

        async with await aiovfork.create_subprocess_exec("sh", "-i", pty=SIZE, env=ENV) as shell:
            assert shell.pty is not None
            for line in TYPED:
                before, prompt = await shell.pty.expect("% ", timeout=30)
                show(before + prompt[0])
                shell.pty.writer.write(f"{line}\n".encode())
            show((await shell.pty.reader.read()).decode())
    print(*screen.display, sep="\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "/dev/null"))
