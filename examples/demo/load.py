"""A process of the demo that asks the server for records at a steady rate and notes how long each took.

The rate does not slow down with the server: a request that finds every connection busy waits its turn, and
the wait counts. So a server that stops for 100 ms is seen by every request due in that time.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from examples.demo import wire

CONNECTIONS = 128  # enough that not the client is what makes requests wait
PATIENCE = 10.0  # seconds that the last answers may take


@dataclass(slots=True)
class Tally:
    """What a stream of requests met. Times are of the monotonic clock, in seconds."""

    answers: list[tuple[float, float]] = field(default_factory=list)  # (when due, until answered)
    late: list[float] = field(default_factory=list)  # how late this process itself was
    wrong: int = 0
    sent: int = 0


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def ask(connection: Connection, due: asyncio.Queue[tuple[float, int]], tally: Tally) -> None:
    """Serve one connection: send what is due, one request at a time."""
    loop = asyncio.get_running_loop()
    reader, writer = connection
    while True:
        begin, number = await due.get()
        writer.write(b"GET /record/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % number)
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(head.rpartition(b"Content-Length: ")[2]))
        tally.answers.append((round(begin, 6), round(loop.time() - begin, 6)))
        tally.wrong += not body.startswith(b"record %d " % number)
        due.task_done()


async def connect(port: int) -> list[Connection]:
    """Open the connections to a server, ahead of the scenes."""
    return [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS)]


async def run(connections: list[Connection], seconds: float, rate: float) -> Tally:
    """Send `rate` requests a second for `seconds`, or until SIGUSR1 comes.

    What is unanswered PATIENCE later stays unanswered.
    """
    loop = asyncio.get_running_loop()
    enough = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, enough.set)
    tally = Tally()
    due: asyncio.Queue[tuple[float, int]] = asyncio.Queue()
    asking = [asyncio.create_task(ask(connection, due, tally)) for connection in connections]
    begin = loop.time()
    for number in range(round(seconds * rate)):
        when = begin + number / rate
        await asyncio.sleep(when - loop.time())
        if enough.is_set():
            break
        now = loop.time()
        tally.late.append(round(now - when, 6))
        due.put_nowait((now, number))
        tally.sent += 1
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            await due.join()
    loop.remove_signal_handler(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    return tally


def main() -> None:
    """Do what the demo asks: connect to a server, or ask it for records and tell what became of that."""
    connections: list[Connection] = []
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # while nothing is under way
    with asyncio.Runner() as runner:
        for request in wire.requests():
            match request["do"]:
                case "connect":
                    for _, writer in connections:
                        writer.close()
                    connections = runner.run(connect(request["port"]))
                    wire.reply(connected=len(connections))
                case "ask":
                    tally = runner.run(run(connections, request["seconds"], request["rate"]))
                    wire.reply(**asdict(tally))


if __name__ == "__main__":
    main()
