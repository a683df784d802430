"""Who wants to know of requests, by Gunicorn's configuration and its logger."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from gunicorn import SERVER_SOFTWARE
from gunicorn.glogging import Logger, SafeAtoms

from uvicorn_worker._types import Hooks
from uvicorn_worker.access_log import Entry
from uvicorn_worker.access_writer import AccessWriter
from uvicorn_worker.config import Settings
from uvicorn_worker.observe import Observer
from uvicorn_worker.views import environ_of


def lend_handlers(log: Any) -> None:
    """Have uvicorn's loggers, which applications write to, write where those of Gunicorn's logger ``log`` do."""
    lenders = {"uvicorn": "error_log", "uvicorn.error": "error_log", "uvicorn.access": "access_log"}
    for name, lender_name in lenders.items():
        lender = getattr(log, lender_name, None)  # Another class of logger may have none.
        if isinstance(lender, logging.Logger):
            logger = logging.getLogger(name)
            logger.handlers = lender.handlers
            logger.setLevel(lender.level)
            logger.propagate = False


class Observation:
    """What one of Gunicorn's workers has its requests observed for: an access log, and hooks."""

    def __init__(self, worker: Any, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        self._worker = worker
        self._cfg = worker.cfg
        self._log = worker.log
        self._settings = settings
        self._loop = loop

    def observer(self) -> Observer | None:
        """What is told of requests, if anybody wants to know."""
        access_log = self._log.access if self._is_access_logged() else None
        hooks = self._hooks()
        if access_log is None and hooks == Hooks():
            return None
        return Observer(self._log, access_log, writer=self._access_writer(), environ=self._environ(), hooks=hooks)

    def _is_access_logged(self) -> bool:
        """Whether anything becomes of a call of ``log.access``: a line, or what another class of logger makes of it."""
        cfg = self._cfg
        to_syslog = cfg.syslog and not cfg.disable_redirect_access_to_syslog
        configured = cfg.accesslog or cfg.logconfig or cfg.logconfig_dict or cfg.logconfig_json or to_syslog
        return type(self._log).access is not Logger.access or bool(self._settings.access_log and configured)

    def _access_writer(self) -> AccessWriter | None:
        """What comes to the same as calling ``log.access``, for much less, where the logger is Gunicorn's own."""
        log = self._log
        if not self._is_access_logged() or type(log) is not Logger or Logger.atoms_wrapper_class is not SafeAtoms:
            return None
        try:
            line_format = self._cfg.access_log_format
            return AccessWriter(line_format, self._environ_of, log.access_log, log, self._loop.call_soon)
        except (TypeError, ValueError):  # The logger will say what is wrong with it.
            return None

    def _environ_of(self, entry: Entry) -> Mapping[str, Any]:
        return environ_of(entry, self._environ())

    def _environ(self) -> dict[str, Any]:
        """What the environments of all requests have in common, for hooks and loggers."""
        return {
            "SERVER_SOFTWARE": SERVER_SOFTWARE,
            "wsgi.version": (1, 0),
            "wsgi.multithread": False,
            "wsgi.multiprocess": self._cfg.workers > 1,
            "wsgi.run_once": False,
        }

    def _hooks(self) -> Hooks:
        """The hooks around requests; Gunicorn's own do nothing, but for a line at the level of debugging."""
        before, after = self._cfg.settings["pre_request"], self._cfg.settings["post_request"]
        has_after = after.get() != after.default
        is_debugging = getattr(self._log, "loglevel", logging.INFO) <= logging.DEBUG
        if not has_after and not is_debugging and before.get() == before.default:
            return Hooks()
        return Hooks(self._before_request, partial(self._cfg.post_request, self._worker) if has_after else None)

    def _before_request(self, request: Any) -> None:
        self._cfg.pre_request(self._worker, request)
        self._worker.nr += 1  # For hooks to see.
