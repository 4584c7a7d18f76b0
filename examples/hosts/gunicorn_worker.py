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
        """SIGTERM: let requests end by themselves, and cancel them shortly before the master's SIGKILL.

        The master kills this process when the graceful timeout is over. Then nobody could end the helpers.
        """
        super().handle_exit_signal()
        patience = self.cfg.graceful_timeout
        self.loop.call_later(patience - min(2, patience / 2), self.handle_quit_signal)
