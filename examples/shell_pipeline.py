"""A shell pipeline. Quote what you insert into the command. If you need no shell, do not use one."""

import asyncio
import shlex

import aiovfork
from aiovfork import PIPE


async def count(word: str, text: str) -> int:
    """Count the lines of a text that hold a word, with printf, grep and wc."""
    command = f"printf %s {shlex.quote(text)} | grep -F -e {shlex.quote(word)} | wc -l"
    process = await aiovfork.create_subprocess_shell(command, stdout=PIPE)
    output, _ = await process.communicate()
    return int(output or b"0")


async def main() -> None:
    """Count, with a word that a shell would take apart if it were not quoted."""
    text = "the cat's bowl\nthe dog's bone\nthe cat's tail\n"
    print(await count("cat's", text), "lines about the cat")


if __name__ == "__main__":
    asyncio.run(main())
