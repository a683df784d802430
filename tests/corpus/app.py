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
            answer = {
                "method": message["method"],
                "path": message["path"],
                "raw": message["raw_path"].decode("latin-1"),
                "query": message["query_string"].decode("latin-1"),
                "fields": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in message["headers"]],
                "body": None,
            }
            self.calls.append(answer)
            answer["body"] = (await self.read_body(channels)).decode("latin-1")
        await channels["reply"].send({"status": 200, "content": self.describe(answer)})

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


app = Witness()
