"""What the outside sees of the requests that are served: Gunicorn's access log."""

from __future__ import annotations

from typing import Any, Protocol

from uvicorn_worker._types import ReplyFields


class Record(Protocol):
    """What is noted of one exchange."""

    sent: int

    def answer(self, status: int, fields: ReplyFields, size: int) -> None:
        """The head of the response was made, with ``size`` bytes of content behind it."""
        ...

    def end(self) -> None:
        """The exchange is over."""
        ...


class Observer(Protocol):
    """Notes what happens to exchanges."""

    def begin(self, exchange: Any) -> Record: ...
