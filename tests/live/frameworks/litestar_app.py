"""A Litestar application."""

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from apps import say
from frameworks import common
from litestar import Litestar, MediaType, Request, Response, WebSocket, get, head, post, websocket
from litestar.background_tasks import BackgroundTask
from litestar.datastructures import State, UploadFile
from litestar.enums import RequestEncodingType
from litestar.exceptions import HTTPException, WebSocketDisconnect
from litestar.logging import LoggingConfig
from litestar.params import Body
from litestar.response import Redirect, ServerSentEvent, Stream
from litestar.static_files import create_static_files_router


@asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    say("startup", os.getpid())
    app.state.startup_pid = os.getpid()
    yield
    say("shutdown", os.getpid())


@get("/json", name="json")
async def json() -> dict[str, str]:
    return {"hello": "world"}


@head("/json")
async def head_json() -> Response[None]:
    return Response(None, headers={"content-length": "17", "content-type": "application/json"})


@post("/json", status_code=200)
async def post_json(data: dict[str, Any]) -> dict[str, Any]:
    return data


@post("/form", status_code=200)
async def form(
    data: Annotated[dict[str, str], Body(media_type=RequestEncodingType.URL_ENCODED)],
) -> dict[str, str]:
    return data


@post("/upload", status_code=200, request_max_body_size=None)
async def upload(
    data: Annotated[dict[str, UploadFile], Body(media_type=RequestEncodingType.MULTI_PART)],
) -> dict[str, Any]:
    file, digest, size = data["file"], hashlib.sha256(), 0
    while part := await file.read(65536):
        digest.update(part)
        size += len(part)
    return {"name": file.filename, "size": size, "sha256": digest.hexdigest()}


@post("/count", status_code=200, request_max_body_size=None)
async def count(request: Request[Any, Any, Any]) -> dict[str, int]:
    size = 0
    async for part in request.stream():
        size += len(part)
        if part:
            say("received", size)
    return {"size": size}


@post("/echo", status_code=200)
async def echo(request: Request[Any, Any, Any]) -> Stream:
    return Stream(request.stream())


@get("/parts/{name:str}")
async def parts(name: str) -> Stream:
    return Stream(common.two_parts(name))


@get("/events/{name:str}")
async def events(name: str) -> Stream:
    return Stream(common.events(name), media_type="text/event-stream")


@get("/silent_events/{name:str}")
async def silent_events(name: str) -> Stream:
    return Stream(common.silent_events(name), media_type="text/event-stream")


@get("/three_events")
async def three_events() -> ServerSentEvent:
    return ServerSentEvent(iter(("one", "two", "three")))


@get("/background/{name:str}", media_type=MediaType.TEXT)
async def background(name: str) -> Response[str]:
    return Response("accepted", background=BackgroundTask(common.slow_work, name))


@get("/state")
async def state(state: State) -> dict[str, int]:
    return {"startup_pid": state.startup_pid, "pid": os.getpid()}


@get("/fail")
async def fail() -> None:
    raise RuntimeError("as the framework likes")


@get("/fail_amid")
async def fail_amid() -> Stream:
    async def content() -> AsyncIterator[bytes]:
        yield b"some "
        raise RuntimeError("amid the body")

    return Stream(content())


@get("/teapot")
async def teapot() -> None:
    raise HTTPException("short and stout", status_code=418, headers={"x-pot": "tea"})


@get("/thread/{name:str}", sync_to_thread=True)
def in_thread(name: str) -> dict[str, bool]:
    return common.wait_in_thread(name)


@post("/open/{name:str}", status_code=200, media_type=MediaType.TEXT)
async def open_gate(name: str) -> str:
    common.open_gate(name)
    return "open"


@get("/cookies")
async def cookies(request: Request[Any, Any, Any]) -> Response[dict[str, str]]:
    response = Response(dict(request.cookies))
    response.set_cookie("one", "1")
    response.set_cookie("two", "2", httponly=True)
    return response


@get("/redirect")
async def redirect(request: Request[Any, Any, Any]) -> Redirect:
    return Redirect(str(request.url_for("json")), status_code=302)


@get("/where")
async def where(request: Request[Any, Any, Any]) -> dict[str, str]:
    assert request.client
    return {"client": request.client.host, "url": str(request.url), "json": str(request.url_for("json"))}


@websocket("/ws/echo")
async def websocket_echo(socket: WebSocket[Any, Any, Any]) -> None:
    await socket.accept(subprotocols="chat" if "chat" in socket.scope["subprotocols"] else None)
    mode = "binary" if "binary" in socket.query_params else "text"
    try:
        while True:
            await socket.send_data(await socket.receive_data(mode), mode)
    except WebSocketDisconnect as gone:
        say("disconnected", gone.code, gone.detail)


@websocket("/ws/close")
async def websocket_close(socket: WebSocket[Any, Any, Any]) -> None:
    await socket.accept()
    await socket.close(4001, "no more")


@websocket("/ws/reject")
async def websocket_reject(socket: WebSocket[Any, Any, Any]) -> None:
    await socket.close()


@websocket("/ws/fail")
async def websocket_fail(socket: WebSocket[Any, Any, Any]) -> None:
    await socket.accept()
    raise RuntimeError("as the framework likes")


app = Litestar(
    [
        json, head_json, post_json, form, upload, count, echo, parts, events, silent_events, three_events, background,
        state, fail, fail_amid, teapot, in_thread, open_gate, cookies, redirect, where,
        websocket_echo, websocket_close, websocket_reject, websocket_fail,
        create_static_files_router("/static", [common.STATIC]),
    ],
    lifespan=[lifespan],
    logging_config=LoggingConfig(log_exceptions="always"),
)  # fmt: skip
