"""One request and its response: the call of the application, and what becomes of it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine
from http import HTTPStatus
from typing import Any, ClassVar, Protocol, cast

from uvicorn_worker._types import Address, Application, Message, RequestFields
from uvicorn_worker.errors import BodyStalled, ClientDisconnected, RequestRefused, WorkerExit
from uvicorn_worker.http11 import wire
from uvicorn_worker.http11.body import ABSENT, BROKEN
from uvicorn_worker.http11.framing import Target
from uvicorn_worker.http11.response import FINISHED, GONE, OPEN, WAITING, Response, ResponseWire
from uvicorn_worker.proxy import Told
from uvicorn_worker.service import Service


class Wire(ResponseWire, Protocol):
    """The connection, as its exchanges see it."""

    __slots__ = ()

    #: The other end of the connection, and what that has told of a client by a PROXY header.
    peer: Address | None
    told: Told | None
    #: What the application is told of every request of the connection.
    template: Message
    has_ended: bool
    keeps_alive: bool

    def can_be_variable(self, name: bytes) -> bool:
        """Whether a request field of this name may be in an environment of WSGI."""
        ...

    def backlog(self) -> int:
        """Of messages to groups, the bytes that still wait for the client."""
        ...

    def owe(self, size: int) -> None:
        """So many of the bytes that wait, or all if there are fewer, are of messages to groups."""
        ...

    def abort(self) -> None:
        """Close now, whatever is under way."""
        ...

    def refuse_body(self, exchange: Exchange, refusal: RequestRefused) -> None: ...

    def cut(self, exchange: Exchange) -> None:
        """End the connection so that the client can tell that the reply is not whole."""
        ...

    def exchange_ended(self, exchange: Exchange) -> None:
        """The application's call has returned, or more came of its body than is worth dropping."""
        ...


class Exchange(Response):
    """A parsed request head with its body as it arrives, and the response as it leaves."""

    __slots__ = ("_name", "headers", "target", "task")

    #: Whether the interface shows fields as tuples, and not as lists.
    has_tuples: ClassVar[bool] = False

    connection: Wire
    #: Set when they are needed.
    _name: str
    task: asyncio.Task[None] | None

    def __init__(self, connection: Wire, method: str, target: Target, headers: RequestFields) -> None:
        self.connection = connection
        self.method = method
        self.target = target
        self.headers = headers
        #: What the application is told beside: the connection's, unless there is something to tell of this request.
        self.template = connection.template
        self.keep_alive = connection.keeps_alive
        self.is_usual = method != "HEAD"
        self.body = ABSENT
        self.reply = WAITING

    def __str__(self) -> str:
        return f"{self.method} {self.target.path}"

    @property
    def version(self) -> str:
        """The request's version of HTTP."""
        return cast(str, self.template["http_version"])

    # The call of the application.

    @classmethod
    def template_for(cls, service: Service, client: Address | None, server: Address | None) -> Message:
        """What an interface tells the application of every request of one connection."""
        raise NotImplementedError

    @classmethod
    def describe_tls(cls, template: Message, connection: ssl.SSLObject) -> None:
        """Add to ``template`` what the application is told of TLS."""

    def call(self, app: Application) -> Coroutine[Any, Any, None]:
        """The application's coroutine for this request; an interface says how it is made."""
        raise NotImplementedError

    async def run(self, service: Service) -> None:
        """Call the application, and see that its request gets an answer; :attr:`task` is what runs this."""
        try:
            await self.call(service.app)
            if self.reply is not FINISHED and self.reply is not GONE:
                self._application_returned()
        except (WorkerExit, GeneratorExit):
            raise
        except BaseException as error:  # SystemExit too: an application doesn't end the worker (and its siblings).
            self._settle(error)
        service.running.discard(self)
        self.task = None
        if self.body is not ABSENT or service.draining:
            self.connection.exchange_ended(self)

    def cancel(self) -> None:
        """Cancel the call of the application."""
        if self.task is not None:
            self.task.cancel()
            # One that has not begun yet never gets to the end of run().
            self.task.add_done_callback(lambda _: self.connection.service.running.discard(self))

    def _application_returned(self) -> None:
        """It has returned, and its reply is not finished."""
        what = "returned without finishing its reply (does it reply, with each send awaited?)"
        self._answer_for_the_application(what, None)

    def _settle(self, error: BaseException) -> None:
        """See to what the application has raised; close at once where there is no memory for that."""
        try:
            self._application_raised(error)
        except MemoryError:
            error.__traceback__ = None  # The application's frames may hold what memory there is.
            self.connection.abort()
            self.connection.service.out_of_memory(self)

    def _application_raised(self, error: BaseException) -> None:
        if isinstance(error, ClientDisconnected) and (self.reply is GONE or self.body is BROKEN):
            if self.reply is WAITING and isinstance(error, BodyStalled):
                refusal = RequestRefused(HTTPStatus.REQUEST_TIMEOUT, "The body of the request stalled")
                self.connection.refuse_body(self, refusal)
            elif self.reply < FINISHED:
                self.connection.cut(self)
        elif isinstance(error, asyncio.CancelledError) and self.connection.service.draining:
            if self.reply < OPEN:
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE)
            elif self.reply is OPEN:
                self.connection.cut(self)
        else:
            self._answer_for_the_application("raised", error)

    def _answer_for_the_application(self, what: str, error: BaseException | None) -> None:
        """Log what the application did, and answer with 500 or, where its reply has begun, end the connection."""
        self.connection.service.log.error("The application %s: %s", what, self, exc_info=error)
        if self.reply < OPEN:
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR)
        elif self.reply is OPEN:
            self.connection.cut(self)

    def _answer(self, status: HTTPStatus) -> None:
        self.reply = WAITING
        self.send_whole(status, ((b"content-type", b"text/plain; charset=utf-8"),), status.phrase.encode("ascii"))

    # The client.

    def client_gone(self) -> None:
        """There is nobody to answer any more."""
        self.break_body(ClientDisconnected, "the client has gone")
        self.keep_alive = False
        if self.reply is not FINISHED:
            self.reply = GONE

    def client_ended(self) -> None:
        """The client sends no more. It may have gone, or not."""

    # What the body asks for.

    def _ask_for_body(self) -> None:
        if self.reply is WAITING:
            self.connection.write(wire.CONTINUE)

    def _give_body_up(self) -> None:
        self.end_connection()
        self.connection.exchange_ended(self)

    def body_complete(self) -> None:
        super().body_complete()
        if self.reply is FINISHED:
            self._end_if_read()
