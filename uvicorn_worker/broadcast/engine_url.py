"""The option that says by which engine groups reach other workers."""

from __future__ import annotations

import re
from importlib import metadata
from typing import Any
from urllib.parse import urlsplit

from uvicorn_worker.broadcast import redis_url
from uvicorn_worker.config import REDIS_PY

#: Where a password may stand in what is meant to be a URL, and what is told of that.
_SECRETS = (
    (re.compile(r"^([^:/?#]*(?::/*|//))[\s\S]*@"), r"\1***@"),
    (re.compile(r"(//[^:/?#@\[]*:)(?![0-9]+(?:[,/?#]|$))[^/?#@]*$"), r"\1***"),
    (re.compile(r"(pass\w*=)[^&]*", re.IGNORECASE), r"\1***"),
)

#: What the extra ``redis`` asks for. The package's own name would bring another package of that name from PyPI.
_EXTRA = f"pip install 'redis[hiredis]=={REDIS_PY}.*'"


def engine_url(value: Any) -> str:
    """The URL of an engine, as its own module reads it; raises ``ValueError``."""
    if isinstance(value, str) and redis_url.is_redis(value):
        redis_url.parse(value)
        _check_redis_py()
        return value
    try:
        scheme, host, path, query, fragment = urlsplit(value)
    except (TypeError, ValueError, AttributeError):
        raise ValueError("expected a URL, as 'local://'") from None
    if scheme != "local" or host or query or fragment or (path and not path.startswith("/")):
        raise ValueError("expected 'local://', 'local:///path/of/a/directory', or a URL of Redis, as 'redis://host'")
    return str(value)


def _check_redis_py() -> None:
    """Whether the extra is there, which is imported by the workers alone."""
    try:
        metadata.version("hiredis")
        version = metadata.version("redis")
    except metadata.PackageNotFoundError as error:
        raise ValueError(f"{error.name} is not installed: {_EXTRA}") from None
    if version.partition(".")[0] != REDIS_PY:
        raise ValueError(f"redis-py {REDIS_PY} is needed, and not {version}: {_EXTRA}")

def without_password(value: Any) -> Any:
    """The value as it can be told; one that can't be parsed may have a password anywhere before the last ``@``, where a
    port should be, or in a parameter of any name like that."""
    if not isinstance(value, str):
        return value
    for pattern, shown in _SECRETS:
        value = pattern.sub(shown, value)
    return value
