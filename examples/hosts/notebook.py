"""In Jupyter: install() in one cell, and every child that the notebook starts is aiovfork's from then on."""
# mypy: disable-error-code="top-level-await"
# ruff: noqa: F704, PLE1142  # the cells of a notebook may await

# %%
import asyncio
from asyncio.subprocess import PIPE

import anyio

import aiovfork

plug = aiovfork.install()

# %%
process = await asyncio.create_subprocess_exec("uname", stdout=PIPE)
output, _ = await process.communicate()
print(output.decode().strip(), "on", type(asyncio.get_running_loop()).__name__)

# %%
# Libraries too: they ask the running loop.
completed = await anyio.run_process(["uname"])
print(completed.stdout.decode().strip(), "and", aiovfork.stats().spawned, "started by aiovfork")
