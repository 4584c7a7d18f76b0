"""Canaries: what the how-to pages use of a host although it does not document it is still there."""

from __future__ import annotations

import inspect

from gunicorn.workers.gasgi import ASGIWorker  # type: ignore[import-untyped]  # gunicorn has no types


def test_gunicorn() -> None:
    """The worker has the attribute and the three methods that examples/hosts/gunicorn_worker.py relies on."""
    methods = {"run", "handle_exit_signal", "handle_quit_signal"}
    missing = methods - vars(ASGIWorker).keys()
    assert not missing, f"gunicorn's ASGIWorker has no {missing} any more: change the example and its page"
    assert "self.loop = " in inspect.getsource(ASGIWorker), (
        "gunicorn's ASGIWorker keeps its loop elsewhere: change the example and its page"
    )
    signals = inspect.getsource(ASGIWorker.init_signals)
    assert "SIGTERM, self.handle_exit_signal" in signals, (
        "gunicorn's ASGIWorker handles SIGTERM elsewhere: change the example and its page"
    )
