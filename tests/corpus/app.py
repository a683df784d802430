"""The application that cases are sent to."""

from __future__ import annotations

import json
from typing import Any


class Witness:
    """Answers each call with what it was called with, as JSON, and remembers it; ``/calls`` takes what it remembers.

    The body of a call is ``None`` as long as its end has not come.
    """

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    async def __call__(self, message: dict[str, Any], channels: dict[str, Any]) -> None:
        if message["path"] == "/calls":
            answer: Any = self.calls[:]
            self.calls.clear()
        else:
            answer = self.remember(message)
            answer["body"] = (await self.read_body(channels)).decode("latin-1")
        await channels["reply"].send({"status": 200, "content": self.describe(answer)})

    def remember(self, request: dict[str, Any]) -> dict[str, Any]:
        """A call with this message, or scope, has begun."""
        call = {
            "method": request["method"],
            "path": request["path"],
            "raw": request["raw_path"].decode("latin-1"),
            "query": request["query_string"].decode("latin-1"),
            "fields": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request["headers"]],
            "body": None,
        }
        self.calls.append(call)
        return call

    @staticmethod
    def describe(answer: Any) -> bytes:
        return json.dumps(answer).encode()

    async def read_body(self, channels: dict[str, Any]) -> bytes:
        parts = []
        more = "body" in channels
        while more:
            part = await channels["body"].receive()
            parts.append(part["content"])
            more = part["more_content"]
        return b"".join(parts)


class ASGIWitness(Witness):
    """The same by ASGI 3; a call whose body breaks off returns without an answer."""

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        call = self.remember(scope)
        body, more = b"", True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            body += event["body"]
            more = event["more_body"]
        call["body"] = body.decode("latin-1")
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": self.describe(call)})


app = Witness()
