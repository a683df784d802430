"""A FastAPI application, with a middleware that stands between it and the server's events."""

import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from apps import gates, say
from fastapi import BackgroundTasks, Depends, FastAPI, Form, HTTPException, Request, Response, UploadFile, WebSocket
from fastapi.responses import FileResponse, RedirectResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from frameworks import common
from pydantic import BaseModel
from starlette.websockets import WebSocketDisconnect


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    say("startup", os.getpid())
    yield {"startup_pid": os.getpid()}
    say("shutdown", os.getpid())


app = FastAPI(lifespan=lifespan)
app.mount("/static", StaticFiles(directory=common.STATIC))


@app.middleware("http")
async def between(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    response.headers["x-between"] = "yes"
    return response


class Item(BaseModel):
    name: str
    price: float


@app.api_route("/json", methods=["GET", "HEAD"], name="json")
async def json() -> dict[str, str]:
    return {"hello": "world"}


@app.post("/json")
async def post_json(content: dict[str, Any]) -> dict[str, Any]:
    return content


@app.post("/items")
async def items(item: Item) -> Item:
    return item


@app.post("/form")
async def form(one: Annotated[str, Form()], two: Annotated[str, Form()]) -> dict[str, str]:
    return {"one": one, "two": two}


@app.post("/upload")
async def upload(file: UploadFile) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    while part := await file.read(65536):
        digest.update(part)
        size += len(part)
    return {"name": file.filename, "size": size, "sha256": digest.hexdigest()}


@app.post("/count")
async def count(request: Request) -> dict[str, int]:
    size = 0
    async for part in request.stream():
        size += len(part)
        if part:
            say("received", size)
    return {"size": size}


@app.post("/echo")
async def echo(request: Request) -> StreamingResponse:
    return StreamingResponse(request.stream())


@app.get("/parts/{name}")
async def parts(name: str) -> StreamingResponse:
    return StreamingResponse(common.two_parts(name))


@app.get("/events/{name}")
async def events(name: str) -> StreamingResponse:
    return StreamingResponse(common.events(name), media_type="text/event-stream")


@app.get("/silent_events/{name}")
async def silent_events(name: str) -> StreamingResponse:
    return StreamingResponse(common.silent_events(name), media_type="text/event-stream")


@app.get("/background/{name}")
async def background(name: str, tasks: BackgroundTasks) -> str:
    tasks.add_task(common.slow_work, name)
    return "accepted"


async def borrowed(name: str) -> AsyncIterator[str]:
    yield name
    await gates[name].wait()
    say("returned", name)


@app.get("/depends/{name}")
async def depends(thing: Annotated[str, Depends(borrowed)]) -> str:
    return thing


@app.get("/state")
async def state(request: Request) -> dict[str, int]:
    return {"startup_pid": request.state.startup_pid, "pid": os.getpid()}


@app.get("/fail")
async def fail() -> None:
    raise RuntimeError("as the framework likes")


@app.get("/fail_amid")
async def fail_amid() -> StreamingResponse:
    async def content() -> AsyncIterator[bytes]:
        yield b"some "
        raise RuntimeError("amid the body")

    return StreamingResponse(content())


@app.get("/teapot")
async def teapot() -> None:
    raise HTTPException(418, "short and stout", {"x-pot": "tea"})


@app.get("/thread/{name}")
def in_thread(name: str) -> dict[str, bool]:
    return common.wait_in_thread(name)


@app.post("/open/{name}")
async def open_gate(name: str) -> str:
    common.open_gate(name)
    return "open"


@app.get("/cookies")
async def cookies(request: Request, response: Response) -> dict[str, str]:
    response.set_cookie("one", "1")
    response.set_cookie("two", "2", httponly=True)
    return request.cookies


@app.get("/redirect")
async def redirect(request: Request) -> RedirectResponse:
    return RedirectResponse(request.url_for("json"), 302)


@app.get("/where")
async def where(request: Request) -> dict[str, str]:
    assert request.client
    return {"client": request.client.host, "url": str(request.url), "json": str(request.url_for("json"))}


@app.get("/file")
async def file() -> FileResponse:
    return FileResponse(os.environ["BIG_FILE"])


@app.get("/watch")
async def watch(request: Request) -> str:
    """Returns when the client has gone."""
    say("watching")
    while not await request.is_disconnected():
        await common.asyncio.sleep(0.02)
    say("client gone")
    return "too late"


@app.websocket("/ws/echo")
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


@app.websocket("/ws/close")
async def websocket_close(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close(4001, "no more")


@app.websocket("/ws/reject")
async def websocket_reject(websocket: WebSocket) -> None:
    await websocket.close()


@app.websocket("/ws/fail")
async def websocket_fail(websocket: WebSocket) -> None:
    await websocket.accept()
    raise RuntimeError("as the framework likes")


@app.websocket("/ws/state")
async def websocket_state(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_json({"startup_pid": websocket.state.startup_pid})
    await websocket.close()
