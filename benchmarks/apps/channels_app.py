"""The applications of the workloads, for message/channels."""

from __future__ import annotations

from typing import Any

from .payloads import CHUNK, CHUNKS, DOCUMENT, DOWNLOAD, HELLO


async def hello(message: dict[str, Any], channels: dict[str, Any]) -> None:
    await channels["reply"].send({"status": 200, "headers": [[b"content-type", b"text/plain"]], "content": HELLO})


async def document(message: dict[str, Any], channels: dict[str, Any]) -> None:
    headers = [[b"content-type", b"application/json"]]
    await channels["reply"].send({"status": 200, "headers": headers, "content": DOCUMENT})


async def download(message: dict[str, Any], channels: dict[str, Any]) -> None:
    headers = [[b"content-type", b"application/octet-stream"]]
    await channels["reply"].send({"status": 200, "headers": headers, "content": DOWNLOAD})


async def stream(message: dict[str, Any], channels: dict[str, Any]) -> None:
    reply = channels["reply"]
    await reply.send({"status": 200, "headers": [[b"content-type", b"text/plain"]], "more_content": True})
    for _ in range(CHUNKS - 1):
        await reply.send({"content": CHUNK, "more_content": True})
    await reply.send({"content": CHUNK})


async def upload(message: dict[str, Any], channels: dict[str, Any]) -> None:
    size, more = 0, "body" in channels
    while more:
        part = await channels["body"].receive()
        size += len(part["content"])
        more = part["more_content"]
    await channels["reply"].send({"status": 200, "content": b"%d" % size})


async def echo(message: dict[str, Any], channels: dict[str, Any]) -> None:
    if message["channel"] == "websocket.receive":
        await channels["reply"].send({"text": message["text"]})
    elif message["channel"] == "websocket.connect":
        await channels["reply"].send({"accept": True})


async def broadcast(message: dict[str, Any], channels: dict[str, Any]) -> None:
    if message["channel"] == "websocket.receive":
        await channels["groups"].send({"group": "members", "send": {"text": message["text"]}})
    elif message["channel"] == "websocket.connect":
        await channels["groups"].send({"group": "members", "add": channels["reply"].name})
        await channels["reply"].send({"accept": True})
