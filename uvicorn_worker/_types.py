"""Shapes that several rooms share; no behaviour."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple, Protocol

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


class Hooks(NamedTuple):
    """Gunicorn's hooks around a request."""

    #: Called before the application is, with the request; what it raises is answered with 500.
    before: Callable[[Any], object] | None = None
    #: Called when the call of the application is over, with the request, its environment, and the response or ``None``.
    after: Callable[[Any, dict[str, Any], Any], object] | None = None


class Observing(Protocol):
    """What is told of requests when they have been answered."""

    #: What the environments (PEP 3333) of all requests have in common.
    environ: Mapping[str, Any]
    hooks: Hooks
    #: Is called with each request when its answer has been sent, or what there will be of it.
    tell: Callable[[Any], None]

    def look_again(self) -> None:
        """Follow what has changed in the configuration of logging; called once a second."""
        ...


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
