"""Shapes that several rooms share; no behaviour."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from datetime import timedelta
from typing import Any, Protocol

#: Request fields as received: lower-cased names and values, in order, repeats kept.
RequestFields = list[list[bytes]] | list[tuple[bytes, bytes]]

#: Response fields as an application gives them: pairs of name and value.
ReplyFields = Iterable[tuple[bytes, bytes] | list[bytes]]

#: ``(host, port)``; for a Unix socket ``(path, None)``.
Address = tuple[str, int | None]

Message = dict[str, Any]

#: An application of any supported interface.
Application = Callable[..., Coroutine[Any, Any, None]]


#: Takes what Gunicorn's ``Logger.access`` takes: response, request, environ, and how long the request took.
AccessLog = Callable[[Any, Any, dict[str, Any], timedelta], None]


class Log(Protocol):
    """The part of Gunicorn's logger (and of ``logging.Logger``) that is used here."""

    def debug(self, msg: str, *args: Any, **kwargs: Any) -> None: ...

    def info(self, msg: str, *args: Any, **kwargs: Any) -> None: ...

    def warning(self, msg: str, *args: Any, **kwargs: Any) -> None: ...

    def error(self, msg: str, *args: Any, **kwargs: Any) -> None: ...


class Connection(Protocol):
    """A client's connection, as the server that stops it sees it."""

    def drain(self) -> None:
        """Take no more requests than are on their way."""
        ...

    def close_if_idle(self) -> None:
        """Close, if it was idle when it was last asked to drain, and still is."""
        ...

    def abort(self) -> None:
        """Close now, whatever is under way."""
        ...


class Running(Protocol):
    """A call of the application, as the server that stops it sees it."""

    def cancel(self) -> None: ...
