"""An access log in Gunicorn's format, written to a stream that a test holds in its hand."""

from __future__ import annotations

import io
import logging

from uvicorn_worker.access_log import COMBINED
from uvicorn_worker.access_writer import AccessWriter
from uvicorn_worker.observe import ObservedProtocol, Observer
from uvicorn_worker.server import ObservedASGIExchange, ObservedChannelsExchange, RecordedUpgrade
from uvicorn_worker.views import environ_of

from .harness import ASGIWorker, Worker


class Stream(io.StringIO):
    """Counts its writes."""

    writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)

    def take(self) -> list[str]:
        """The lines since the last call."""
        lines = self.getvalue().splitlines()
        self.seek(0)
        self.truncate()
        return lines


def access_logger(stream: io.TextIOBase) -> logging.Logger:
    """A logger as Gunicorn sets its own up."""
    logger = logging.Logger("gunicorn.access", logging.INFO)
    logger.propagate = False
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    return logger


def log_accesses(worker: Worker, template: str = COMBINED) -> Stream:
    """Have the worker write lines, and nothing else, of what it serves."""
    stream = Stream()
    log_accesses_to(worker, access_logger(stream), template)
    return stream


def log_accesses_to(worker: Worker, logger: logging.Logger, template: str = COMBINED) -> None:
    writer = AccessWriter(template, lambda entry: environ_of(entry, {}), logger, worker.log, worker.loop.call_soon)
    worker.service.observer = Observer(worker.log, writer=writer)
    assert worker.service.observer.only_writes_lines
    worker.exchange_class = ObservedASGIExchange if isinstance(worker, ASGIWorker) else ObservedChannelsExchange
    worker.protocol_class = ObservedProtocol
    worker.service.upgrade_class = RecordedUpgrade
