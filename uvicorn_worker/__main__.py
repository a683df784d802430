"""``python -m uvicorn_worker app:hello_world [any Gunicorn option]``: Gunicorn with this worker as its default."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from typing import Any

from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.config import Config

from uvicorn_worker import __version__
from uvicorn_worker.errors import LoadFailed

_WORKER_CLASS = "uvicorn_worker.UvicornWorker"


class _Config(Config):  # type: ignore[misc]  # Gunicorn has no types.
    @property
    def worker_class_str(self) -> str:
        """What the log says after ``Using worker:``."""
        name = super().worker_class_str
        return f"uvicorn_worker {__version__}" if name == _WORKER_CLASS else str(name)


class _Application(WSGIApplication):  # type: ignore[misc]
    callable: Any

    def load_default_config(self) -> None:
        self.cfg = _Config(self.usage, prog=self.prog)
        self.cfg.set("worker_class", _WORKER_CLASS)

    def run(self) -> None:
        """As Gunicorn's, whose ``--check-config`` and ``--print-config`` don't ask the worker class."""
        if self.cfg.check_config or self.cfg.print_config:
            self._ask_worker_class()
        super().run()

    def load(self) -> Any:
        """Gunicorn's own check loads what has been loaded."""
        if self.callable is None:
            self.callable = super().load()
        return self.callable

    def _ask_worker_class(self) -> None:
        try:
            worker_class = self.cfg.worker_class
            if hasattr(worker_class, "check_config"):  # Any class of worker may be configured.
                worker_class.check_config(self.cfg, logging.getLogger("gunicorn.error"))
        except RuntimeError as error:
            sys.exit(f"\nError: {error}\n")
        if hasattr(worker_class, "check_application"):
            self._check_application(worker_class)

    def _check_application(self, worker_class: Any) -> None:
        # These it would find if it was started.
        sys.path[:0] = [os.path.abspath(path) for path in (self.cfg.pythonpath or "").split(",") if path]
        os.environ.update(self.cfg.env)
        try:
            worker_class.check_application(self)
        except LoadFailed as failure:
            if failure.needs_traceback:
                traceback.print_exception(failure.__cause__)
            sys.exit(f"\nError: {failure}\n")
        except Exception:
            print("\nError while loading the application:\n", file=sys.stderr)
            traceback.print_exc()
            sys.exit(1)


def main() -> None:
    _Application("%(prog)s [OPTIONS] [APP_MODULE]", prog="python -m uvicorn_worker").run()


if __name__ == "__main__":
    main()
