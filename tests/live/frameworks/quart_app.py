"""A Quart application."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from typing import Any

from apps import gates, say
from frameworks import common
from quart import Quart, Response, abort, jsonify, request, send_file, url_for, websocket
from quart import redirect as redirect_to
from quart.utils import run_sync

app = Quart(__name__, static_folder=common.STATIC)
app.config["MAX_CONTENT_LENGTH"] = None  # for the large file: the default is 16 MiB


@app.while_serving
async def lifespan() -> AsyncIterator[None]:
    say("startup", os.getpid())
    app.config["STARTUP_PID"] = os.getpid()
    yield
    say("shutdown", os.getpid())


@app.get("/json")
async def json() -> dict[str, str]:
    return {"hello": "world"}


@app.post("/json")
async def post_json() -> Any:
    return await request.get_json()


@app.post("/form")
async def form() -> dict[str, str]:
    return dict(await request.form)


@app.post("/upload")
async def upload() -> dict[str, Any]:
    file, digest, size = (await request.files)["file"], hashlib.sha256(), 0
    while part := file.read(65536):
        digest.update(part)
        size += len(part)
    return {"name": file.filename, "size": size, "sha256": digest.hexdigest()}


@app.post("/count")
async def count() -> dict[str, int]:
    size = 0
    async for part in request.body:
        size += len(part)
        if part:
            say("received", size)
    return {"size": size}


@app.post("/echo")
async def echo() -> Response:
    return Response(request.body)


@app.get("/parts/<name>")
async def parts(name: str) -> Response:
    return Response(common.two_parts(name))


@app.get("/sync_parts")
async def sync_parts() -> Response:
    return Response(iter((b"first ", b"second")))


@app.get("/events/<name>")
async def events(name: str) -> Response:
    return Response(common.events(name), mimetype="text/event-stream")


@app.get("/silent_events/<name>")
async def silent_events(name: str) -> Response:
    return Response(common.silent_events(name), mimetype="text/event-stream")


@app.get("/background/<name>")
async def background(name: str) -> str:
    app.add_background_task(common.slow_work, name)
    return "accepted"


@app.get("/wait/<name>")
async def wait(name: str) -> str:
    say("waiting", name)
    try:
        await gates[name].wait()
    except asyncio.CancelledError:
        say("cancelled", name)
        raise
    return "waited"


@app.get("/state")
async def state() -> dict[str, int]:
    return {"startup_pid": app.config["STARTUP_PID"], "pid": os.getpid()}


@app.get("/fail")
async def fail() -> str:
    raise RuntimeError("as the framework likes")


@app.get("/fail_amid")
async def fail_amid() -> Response:
    async def content() -> AsyncIterator[bytes]:
        yield b"some "
        raise RuntimeError("amid the body")

    return Response(content())


@app.get("/teapot")
async def teapot() -> str:
    abort(Response("short and stout", 418, {"x-pot": "tea"}))


@app.get("/thread/<name>")
def in_thread(name: str) -> dict[str, bool]:
    return common.wait_in_thread(name)


@app.get("/bridge/<name>")
async def bridge(name: str) -> dict[str, bool]:
    return await run_sync(common.wait_in_thread)(name)


@app.post("/open/<name>")
async def open_gate(name: str) -> str:
    common.open_gate(name)
    return "open"


@app.get("/cookies")
async def cookies() -> Response:
    response = jsonify(request.cookies)
    response.set_cookie("one", "1")
    response.set_cookie("two", "2", httponly=True)
    return response


@app.get("/redirect")
async def redirect() -> Response:
    return redirect_to(url_for("json"))


@app.get("/where")
async def where() -> dict[str, str | None]:
    return {"client": request.remote_addr, "url": request.url, "json": url_for("json", _external=True)}


@app.get("/file")
async def file() -> Response:
    return await send_file(os.environ["BIG_FILE"], conditional=True)


@app.websocket("/ws/echo")
async def websocket_echo() -> None:
    try:
        await websocket.accept(subprotocol="chat" if "chat" in websocket.requested_subprotocols else None)
        while True:
            await websocket.send(await websocket.receive())
    except asyncio.CancelledError:
        say("disconnected")
        raise


@app.websocket("/ws/close")
async def websocket_close() -> None:
    await websocket.accept()
    await websocket.close(4001, "no more")


@app.websocket("/ws/reject")
async def websocket_reject() -> None:
    await websocket.close(1000)


@app.websocket("/ws/deny")
async def websocket_deny() -> Response:
    return Response('{"why":"not you"}', 401, {"x-why": "you"})


@app.websocket("/ws/fail")
async def websocket_fail() -> None:
    await websocket.accept()
    raise RuntimeError("as the framework likes")
