"""A Starlette application."""

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from apps import say
from frameworks import common
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    say("startup", os.getpid())
    yield {"startup_pid": os.getpid()}
    say("shutdown", os.getpid())


async def json(request: Request) -> JSONResponse:
    return JSONResponse({"hello": "world"} if request.method != "POST" else await request.json())


async def form(request: Request) -> JSONResponse:
    async with request.form() as fields:
        return JSONResponse(dict(fields))


async def upload(request: Request) -> JSONResponse:
    digest, size = hashlib.sha256(), 0
    async with request.form() as fields:
        file = fields["file"]
        while part := await file.read(65536):
            digest.update(part)
            size += len(part)
        return JSONResponse({"name": file.filename, "size": size, "sha256": digest.hexdigest()})


async def count(request: Request) -> JSONResponse:
    size = 0
    async for part in request.stream():
        size += len(part)
        if part:
            say("received", size)
    return JSONResponse({"size": size})


async def parts(request: Request) -> StreamingResponse:
    return StreamingResponse(common.two_parts(request.path_params["name"]))


async def echo(request: Request) -> StreamingResponse:
    return StreamingResponse(request.stream())


async def events(request: Request) -> StreamingResponse:
    return StreamingResponse(common.events(request.path_params["name"]), media_type="text/event-stream")


async def silent_events(request: Request) -> StreamingResponse:
    return StreamingResponse(common.silent_events(request.path_params["name"]), media_type="text/event-stream")


async def background(request: Request) -> PlainTextResponse:
    return PlainTextResponse("accepted", background=BackgroundTask(common.slow_work, request.path_params["name"]))


async def state(request: Request) -> JSONResponse:
    return JSONResponse({"startup_pid": request.state.startup_pid, "pid": os.getpid()})


async def fail(request: Request) -> None:
    raise RuntimeError("as the framework likes")


async def fail_amid(request: Request) -> StreamingResponse:
    async def content() -> AsyncIterator[bytes]:
        yield b"some "
        raise RuntimeError("amid the body")

    return StreamingResponse(content())


async def teapot(request: Request) -> None:
    raise HTTPException(418, "short and stout", {"x-pot": "tea"})


def in_thread(request: Request) -> JSONResponse:
    return JSONResponse(common.wait_in_thread(request.path_params["name"]))


async def open_gate(request: Request) -> PlainTextResponse:
    common.open_gate(request.path_params["name"])
    return PlainTextResponse("open")


async def cookies(request: Request) -> JSONResponse:
    response = JSONResponse(request.cookies)
    response.set_cookie("one", "1")
    response.set_cookie("two", "2", httponly=True)
    return response


async def redirect(request: Request) -> RedirectResponse:
    return RedirectResponse(request.url_for("json"), 302)


async def where(request: Request) -> JSONResponse:
    assert request.client
    url = str(request.url_for("json"))
    return JSONResponse({"client": request.client.host, "url": str(request.url), "json": url})


async def file(request: Request) -> FileResponse:
    return FileResponse(os.environ["BIG_FILE"])


async def watch(request: Request) -> PlainTextResponse:
    """Returns when the client has gone."""
    say("watching")
    while not await request.is_disconnected():
        await common.asyncio.sleep(0.02)
    say("client gone")
    return PlainTextResponse("too late")


async def websocket_echo(websocket: WebSocket) -> None:
    await websocket.accept(subprotocol="chat" if "chat" in websocket.scope["subprotocols"] else None)
    try:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"], message.get("reason"))
            if message.get("text") is not None:
                await websocket.send_text(message["text"])
            else:
                await websocket.send_bytes(message["bytes"])
    except WebSocketDisconnect as gone:
        say("disconnected", gone.code, gone.reason)


async def websocket_close(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close(4001, "no more")


async def websocket_reject(websocket: WebSocket) -> None:
    await websocket.close()


async def websocket_deny(websocket: WebSocket) -> None:
    await websocket.send_denial_response(JSONResponse({"why": "not you"}, 401, {"x-why": "you"}))


async def websocket_fail(websocket: WebSocket) -> None:
    await websocket.accept()
    raise RuntimeError("as the framework likes")


app = Starlette(
    routes=[
        Route("/json", json, name="json", methods=["GET", "POST"]),
        Route("/form", form, methods=["POST"]),
        Route("/upload", upload, methods=["POST"]),
        Route("/count", count, methods=["POST"]),
        Route("/echo", echo, methods=["POST"]),
        Route("/parts/{name}", parts),
        Route("/events/{name}", events),
        Route("/silent_events/{name}", silent_events),
        Route("/background/{name}", background),
        Route("/state", state),
        Route("/fail", fail),
        Route("/fail_amid", fail_amid),
        Route("/teapot", teapot),
        Route("/thread/{name}", in_thread),
        Route("/open/{name}", open_gate, methods=["POST"]),
        Route("/cookies", cookies),
        Route("/redirect", redirect),
        Route("/where", where),
        Route("/file", file),
        Route("/watch", watch),
        Mount("/static", StaticFiles(directory=common.STATIC)),
        WebSocketRoute("/ws/echo", websocket_echo),
        WebSocketRoute("/ws/close", websocket_close),
        WebSocketRoute("/ws/reject", websocket_reject),
        WebSocketRoute("/ws/deny", websocket_deny),
        WebSocketRoute("/ws/fail", websocket_fail),
    ],
    middleware=[Middleware(GZipMiddleware, minimum_size=1 << 20)],
    lifespan=lifespan,
)
