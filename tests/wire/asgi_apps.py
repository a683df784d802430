"""Little applications of ASGI 3, and the events that they send."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from .harness import turn

Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

DISCONNECT = {"type": "http.disconnect"}
NO_BODY = {"type": "http.request", "body": b"", "more_body": False}

CONNECT = {"type": "websocket.connect"}
ACCEPT = {"type": "websocket.accept"}


def start(status: int = 200, *headers: tuple[bytes, bytes], **more: Any) -> Event:
    return {"type": "http.response.start", "status": status, "headers": list(headers), **more}


def part(body: bytes) -> Event:
    return {"type": "http.response.body", "body": body, "more_body": True}


def last(body: bytes = b"") -> Event:
    return {"type": "http.response.body", "body": body}


def trailers(*headers: tuple[bytes, bytes], more: bool = False) -> Event:
    return {"type": "http.response.trailers", "headers": list(headers), "more_trailers": more}


def pathsend(path: object) -> Event:
    return {"type": "http.response.pathsend", "path": str(path)}


def hint(*links: bytes) -> Event:
    return {"type": "http.response.early_hint", "links": list(links)}


def request(body: bytes, *, more: bool) -> Event:
    return {"type": "http.request", "body": body, "more_body": more}


def message(content: str | bytes) -> Event:
    """What is received; its other key may be there with ``None``."""
    return {"type": "websocket.receive", "text" if isinstance(content, str) else "bytes": content}


def sent(content: str | bytes) -> Event:
    return {"type": "websocket.send", "text" if isinstance(content, str) else "bytes": content}


def disconnected(code: int, reason: str = "") -> Event:
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


def close_event(code: int | None = None, reason: str | None = None) -> Event:
    return {"type": "websocket.close", "code": code, "reason": reason}


def denial(status: int = 401, *headers: tuple[bytes, bytes]) -> Event:
    return {"type": "websocket.http.response.start", "status": status, "headers": list(headers)}


def denial_body(body: bytes = b"", *, more: bool = False) -> Event:
    return {"type": "websocket.http.response.body", "body": body, "more_body": more}


async def asgi_hello(scope: Event, receive: Receive, send: Send) -> None:
    await send(start())
    await send(last(b"hello"))


class Script:
    """Sends these events, and lets a turn of the loop go by for ``None``; an error out of ``send`` is kept in
    ``error`` and ends the script."""

    def __init__(self, *events: Event | None) -> None:
        self.events = events
        self.error: Exception | None = None

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        try:
            for event in self.events:
                if event is None:
                    await asyncio.sleep(0)
                else:
                    await send(event)
        except Exception as error:
            self.error = error.with_traceback(None)


class Puppet:
    """Does within its call what a test tells it to, one thing after the other, until it is told to return."""

    def __init__(self) -> None:
        self.scopes: list[Event] = []
        self.was_cancelled = False
        self.receive: Receive
        self.send: Send
        self._todo: asyncio.Queue[tuple[Awaitable[Any], asyncio.Future[Any]] | BaseException | None]

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        self.receive, self.send = receive, send
        self._todo = todo = asyncio.Queue()
        try:
            while (job := await todo.get()) is not None:
                if isinstance(job, BaseException):
                    raise job
                await self._do(*job)
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise

    async def _do(self, awaitable: Awaitable[Any], done: asyncio.Future[Any]) -> None:
        try:
            done.set_result(await awaitable)
        except Exception as error:
            done.set_exception(error)

    async def begins(self, awaitable: Awaitable[Any]) -> asyncio.Future[Any]:
        """Have the call await this; what is given is done when that is."""
        done = asyncio.get_running_loop().create_future()
        self._todo.put_nowait((awaitable, done))
        await turn()
        return done

    async def does(self, awaitable: Awaitable[Any]) -> Any:
        """The result of what the call awaits, which must not have to wait for anything."""
        done = await self.begins(awaitable)
        assert done.done(), "the application waits"
        return done.result()

    async def sends(self, *events: Event) -> None:
        """All of them in the same turn of the loop."""

        async def send_all() -> None:
            for event in events:
                await self.send(event)

        await self.does(send_all())

    async def receives(self) -> Event:
        event: Event = await self.does(self.receive())
        return event

    async def returns(self) -> None:
        self._todo.put_nowait(None)
        await turn()

    async def raises(self, error: BaseException) -> None:
        self._todo.put_nowait(error)
        await turn()
