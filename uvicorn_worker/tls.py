"""The TLS context that all workers share."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator
from typing import Any

from uvicorn_worker._types import Log
from uvicorn_worker.errors import InvalidOption
from uvicorn_worker.gunicorn_settings import describe, is_set

#: Which file stands at a path, and when it was last changed.
_File = tuple[int, int] | None


class Contexts:
    """Makes one context for all workers, in the master, which they inherit.

    So a key may be readable to the master's user alone, and a session that began with one worker is resumed by
    another. It is made anew for another configuration, and for a worker that starts when the files have changed.
    """

    def __init__(self, make: Callable[[Any], Any]) -> None:
        """``make`` is what makes a context by a configuration."""
        self._make = make
        self._cfg: Any = None
        self._files: list[_File] = []
        self._context: ssl.SSLContext | None = None

    def context_of(self, cfg: Any, log: Log) -> ssl.SSLContext:
        """The context by Gunicorn's configuration ``cfg``. Raises :class:`InvalidOption`.

        Where it can't be made again by the settings of before (a worker starts when half of a certificate has been
        renewed), the context of before stays, and the log says so.
        """
        files = [_file(path) for path in (cfg.certfile, cfg.keyfile, cfg.ca_certs)]
        if self._context is None or cfg is not self._cfg or files != self._files:
            try:
                self._context = self._made(cfg, log)
            except InvalidOption as error:
                if self._context is None or not _is_the_same(cfg, self._cfg):
                    raise
                log.error("%s; the certificate of before stays in use", error)
            self._cfg, self._files = cfg, files
        return self._context

    def _made(self, cfg: Any, log: Log) -> ssl.SSLContext:
        names = ("certfile", "keyfile", "ca_certs", "cert_reqs", "ciphers", "ssl_context")
        told = ", ".join(describe(cfg, name) for name in names if is_set(cfg, name))
        try:
            context = self._make(cfg)
        except Exception as error:
            log.debug("TLS can't be set up", exc_info=True)
            reason = next(_faults(cfg), None) or f"{type(error).__name__}: {error}"
            raise InvalidOption(f"TLS can't be set up by {told}: {reason}") from error
        if not isinstance(context, ssl.SSLContext):  # None would mean no TLS to the event loop.
            raise InvalidOption(f"TLS can't be set up by {told}: the hook returned {context!r}, not an ssl.SSLContext")
        return context


def _faults(cfg: Any) -> Iterator[str]:
    """What is wrong with the files that TLS needs, which OpenSSL doesn't name; a hook may read others."""
    if is_set(cfg, "ssl_context"):
        return
    key = "keyfile" if cfg.keyfile else "certfile"
    for name, content in (("certfile", "certificate"), (key, "private key"), ("ca_certs", "certificate")):
        path = getattr(cfg, name)
        if path is None and name != "ca_certs":
            yield f"{name} is not set"
        elif path is not None:
            try:
                with open(path, "rb") as file:
                    is_there = f"{content.upper()}-----".encode() in file.read()
            except OSError as error:
                yield f"{name} can't be read: {error.strerror}"
            else:
                if not is_there:
                    yield f"{name} holds no {content} in PEM"


def _file(path: str | None) -> _File:
    try:
        status = os.stat(path or "")
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns  # The time of change is that of its mode, too.


def _is_the_same(cfg: Any, other: Any) -> bool:
    """Whether two configurations ask for the same; of two hooks, nobody can tell."""
    has_hooks = is_set(cfg, "ssl_context") or is_set(other, "ssl_context")
    return cfg is other or (not has_hooks and bool(cfg.ssl_options == other.ssl_options))
