"""uvicorn-worker with the implementations named that it is to run."""

from typing import ClassVar

from uvicorn_worker import UvicornWorker


class HttpTools(UvicornWorker):
    CONFIG_KWARGS: ClassVar[dict[str, object]] = {"loop": "uvloop", "http": "httptools", "ws": "websockets-sansio"}
