"""What a developer sees, with Gunicorn's ``reload`` on, where the application can't be loaded."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from typing import Any

from uvicorn_worker._types import Application, Message


def error_page(text: str) -> Application:
    """A message/channels application that answers every request with a 500 and ``text``."""
    headers = [[b"content-type", b"text/plain; charset=utf-8"]]
    reply = {"status": 500, "headers": headers, "content": text.encode("utf-8", "backslashreplace")}

    async def application(message: Message, channels: Any) -> None:
        if message["channel"] in ("http.request", "websocket.connect"):
            await channels["reply"].send(reply)

    return application


def files_of(error: BaseException | None) -> Iterator[str]:
    """The files that ``error`` came through: a change to one of them may put it right.

    Python forgets modules whose import has failed, so nobody else knows of them.
    """
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if os.path.isfile(frame.f_code.co_filename):
                yield frame.f_code.co_filename
        if isinstance(error, SyntaxError) and error.filename is not None:
            yield error.filename
        error = error.__cause__ or error.__context__
