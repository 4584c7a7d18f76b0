"""A gunicorn worker that starts children with aiovfork: `gunicorn -k gunicorn_worker.Worker app:app`."""

from gunicorn.workers.gasgi import ASGIWorker  # type: ignore[import-untyped]  # gunicorn has no types

import aiovfork


class Worker(ASGIWorker):  # type: ignore[misc]  # likewise
    """gunicorn's own ASGI worker, with a plug in its loop."""

    def run(self) -> None:
        """Serve, on the loop that gunicorn made: --asgi-loop asyncio, or uvloop."""
        aiovfork.install(self.loop)
        super().run()

    def handle_exit_signal(self) -> None:
        """SIGTERM: let requests end, but be quick in the last moments.

        When the graceful timeout is over, the master kills this process with SIGKILL; requests that have a
        helper could not end it any more.
        """
        super().handle_exit_signal()
        patience = self.cfg.graceful_timeout
        self.loop.call_later(patience - min(2, patience / 2), self.handle_quit_signal)
