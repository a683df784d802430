"""Where access lines go: to the stream of Gunicorn's own logger, as long as nobody has anything to say in between."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from uvicorn_worker._types import Log
from uvicorn_worker.access_log import COMBINED, AccessLine, Entry, EnvironOf, combined_line


class AccessWriter:
    """Writes lines to the stream that a logger's lines end up in, where nothing between the two has anything to say.

    ``logging`` takes 65,000 instructions for a line, which is more than a request costs. The lines of one turn of the
    loop are written together, as writing and flushing cost more than all the rest.
    """

    def __init__(
        self,
        template: str,
        environ_of: EnvironOf,
        logger: logging.Logger,
        log: Log,
        at_turns_end: Callable[..., object],
    ) -> None:
        """``template`` is Gunicorn's ``access_log_format``; ``log`` is told of failures; ``at_turns_end`` calls what
        it is given when the turn of the loop is over (``loop.call_soon``). Raises as :class:`AccessLine`."""
        line = AccessLine(template, environ_of)
        self._make = combined_line if template == COMBINED else line.make
        #: Whether lines show fields of the response.
        self.reads_response = line.reads_response
        self._logger = logger
        self._log = log
        self._handler: logging.StreamHandler[Any] | None = None
        self._lines: list[str] = []
        self._failure_was_logged = False
        self._at_turns_end = at_turns_end

    def look_again(self) -> bool:
        """Whether the stream is known: what has changed in the logger is followed."""
        if self._lines and self._handler in self._logger.handlers:
            self._turn_is_over()  # A filter, say, that is new is not for these.
        self._handler = _only_handler(self._logger)
        return self._handler is not None

    def write(self, entry: Entry) -> None:
        """Write the line of one answered request, where the stream is known."""
        lines = self._lines
        if not lines:
            self._at_turns_end(self._turn_is_over)
        try:
            lines.append(self._make(entry))
        except Exception:  # What it shows has been the application's, to do with as it likes.
            self._log.error("The access log failed: %s", entry, exc_info=True)

    def _turn_is_over(self) -> None:
        try:
            self.flush()
            self._failure_was_logged = False
        except Exception:  # A full disk, for one, of which a line for each turn would fill another.
            if not self._failure_was_logged:
                self._failure_was_logged = True
                self._log.error("The access log failed", exc_info=True)

    def flush(self) -> None:
        """Write the lines that wait; raises what the stream raises."""
        lines, self._lines = self._lines, []
        handler = self._handler
        if not lines:
            return
        if handler is None or handler.lock is None or handler.stream is None:  # It has been changed, or is closed.
            for line in lines:
                self._logger.info("%s", line)
            return
        lines.append("")
        text = handler.terminator.join(lines)
        with handler.lock:
            stream = handler.stream  # Not the same for ever: SIGUSR1 has it opened again.
            stream.write(text)
            stream.flush()


def _only_handler(logger: logging.Logger) -> logging.StreamHandler[Any] | None:
    """The handler of ``logger``, if it alone gets every line of level ``INFO`` and writes just that."""
    is_plain = type(logger) is logging.Logger and logging.getLogRecordFactory() is logging.LogRecord
    if not is_plain or logger.propagate or logger.filters or not logger.isEnabledFor(logging.INFO):
        return None
    if len(logger.handlers) != 1:
        return None
    [handler] = logger.handlers
    if type(handler) is not logging.StreamHandler and type(handler) is not logging.FileHandler:
        return None
    formatter = handler.formatter
    writes_message = type(formatter) is logging.Formatter and formatter._fmt == "%(message)s"
    return handler if writes_message and not handler.filters and handler.level <= logging.INFO else None
