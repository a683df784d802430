"""Gunicorn's edge: a worker class. Nothing else here imports Gunicorn."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
import sys
import traceback
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, ClassVar, NoReturn
from urllib.parse import urlsplit

import uvloop
from gunicorn import sock
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError
from gunicorn.glogging import Logger
from gunicorn.workers.base import Worker

from uvicorn_worker.broadcast.directory import Directory, own_directory
from uvicorn_worker.config import Settings, read_options
from uvicorn_worker.errors import InvalidApplication, InvalidOption, StartupFailed, WorkerExit
from uvicorn_worker.http11.upgrade import UpgradeHandler
from uvicorn_worker.interfaces.detect import detect_interface
from uvicorn_worker.server import UPGRADES, Server, read_upgrades

#: Where the workers of this master find each other, by the masters' pids: a worker may become one itself.
_directories: dict[int, Directory] = {}


def directory_of_master(cfg: Any, url: str) -> str | None:
    """Where the workers of this master find each other, made where there is none, if the engine that ``url`` names
    needs that; raises ``OSError``."""
    scheme, _, path, _, _ = urlsplit(url)
    if scheme != "local":
        return None
    if path:
        return own_directory(path, cfg.uid, cfg.gid)
    pid = os.getpid()
    if pid not in _directories or not os.path.isdir(_directories[pid].path):
        former = os.environ.get("GUNICORN_PID")  # of the master that this takes over from (USR2)
        _directories[pid] = Directory.of_master(cfg.worker_tmp_dir, cfg.uid, cfg.gid, int(former) if former else None)
    return _directories[pid].path


class UvicornWorker(Worker):
    """Runs an asyncio application in each process of a Gunicorn master.

    Use it as ``gunicorn -k uvicorn_worker.UvicornWorker app:app``, or as ``worker_class`` in ``gunicorn.conf.py``.
    """

    alive: bool

    #: Options that Gunicorn has no setting for, by name; set it on a subclass. The environment variable
    #: ``UVICORN_WORKER_<NAME>`` wins.
    CONFIG_KWARGS: ClassVar[Mapping[str, Any]] = {}

    #: What clients can switch to by ``Upgrade`` (RFC 9110 section 7.8): names of protocols, and the coroutine functions
    #: that serve them, which are given an ``Upgrade``. A subclass may add to it.
    UPGRADES: ClassVar[Mapping[str, UpgradeHandler]] = UPGRADES

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Called by the master before any fork; a RuntimeError stops it with one line."""
        try:
            cls._settings_of(cfg, notice=log.warning)
            read_upgrades(cls.UPGRADES)
            cls._warn_of_change(log)
        except InvalidOption as error:
            raise RuntimeError(str(error)) from None

    @classmethod
    def _warn_of_change(cls, log: Any) -> None:
        """Say what one who comes from another worker may rely on and does not find."""
        for name in ("_serve", "callback_notify"):
            if hasattr(cls, name):
                log.warning("%s.%s is not called: it is of another package's worker", cls.__name__, name)

    @classmethod
    def _settings_of(cls, cfg: Any, notice: Callable[[str], object] | None = None) -> Settings:
        return Settings.from_gunicorn(cfg, read_options(cls.CONFIG_KWARGS, os.environ | cfg.env, notice=notice))

    # Booting.

    def __init__(self, age: int, ppid: int, sockets: Any, app: Any, timeout: float, cfg: Any, log: Any) -> None:
        """Called in the master, before it forks."""
        super().__init__(age, ppid, sockets, app, timeout, cfg, log)
        self._directory: str | None = None
        self._directory_error: OSError | None = None
        try:
            self._directory = directory_of_master(cfg, self._settings_of(cfg).groups)
        except InvalidOption:
            pass  # The new process says so.
        except OSError as error:
            self._directory_error = error

    def init_process(self) -> None:
        """Called in the new process. The loop comes first, so that ``post_worker_init`` finds it."""
        try:
            self._settings = self._settings_of(self.cfg)
            read_upgrades(self.UPGRADES)
        except InvalidOption as error:  # The master asks check_config when it starts, but not when it reloads.
            self._fail_boot(str(error), Arbiter.WORKER_BOOT_ERROR)
        if self._directory_error is not None:
            line = f"No directory for the workers to find each other: {self._directory_error} (worker_tmp_dir)"
            self._fail_boot(line, Arbiter.WORKER_BOOT_ERROR)
        self._lend_handlers()
        self._server: Server | None = None
        self._is_leaving = False
        self.loop: asyncio.AbstractEventLoop
        self.loop = asyncio.new_event_loop() if self._settings.loop == "asyncio" else uvloop.new_event_loop()
        self.loop.set_exception_handler(_ignore_exits)
        asyncio.set_event_loop(self.loop)
        super().init_process()

    def _lend_handlers(self) -> None:
        """Have uvicorn's loggers, which applications write to, write where Gunicorn's do."""
        lenders = {"uvicorn": "error_log", "uvicorn.error": "error_log", "uvicorn.access": "access_log"}
        for name, lender_name in lenders.items():
            lender = getattr(self.log, lender_name, None)  # Another class of logger may have none.
            if isinstance(lender, logging.Logger):
                logger = logging.getLogger(name)
                logger.handlers = lender.handlers
                logger.setLevel(lender.level)
                logger.propagate = False

    def load_wsgi(self) -> None:
        """Load the application; a failure stops the master with one line and a status of 3, or 4 for an import."""
        try:
            super().load_wsgi()
            detect_interface(self.wsgi, self._settings.interface)
        except ImportError as error:
            hint = ""
            if self._is_application_module(error.name):
                hint = f" (looked for in {os.getcwd()}; --chdir says where else)"
            else:
                self.log.exception("The application could not be imported")
            self._fail_boot(f"The application could not be imported: {error}{hint}", Arbiter.APP_LOAD_ERROR)
        except AppImportError as error:
            self._fail_boot(f"The application could not be loaded: {error}", Arbiter.APP_LOAD_ERROR)
        except WorkerExit:
            raise
        except SystemExit as error:
            self._fail_boot(f"The application exited when it was imported: {error}", Arbiter.WORKER_BOOT_ERROR)
        except InvalidApplication as error:
            self._fail_boot(f"Not an application: {error}", Arbiter.WORKER_BOOT_ERROR)

    def _is_application_module(self, name: str | None) -> bool:
        """Whether a module that wasn't found is the one that the command line names, or a package of it."""
        uri = getattr(self.app, "app_uri", None) or ""
        return name is not None and f"{uri.partition(':')[0]}.".startswith(f"{name}.")

    def _fail_boot(self, line: str, status: int) -> NoReturn:
        self.log.error(line)
        sys.exit(status)

    # Serving.

    def run(self) -> None:
        """Serve until told to stop. Called last in ``init_process``."""
        if not self.alive:  # A signal to stop came while the application was loaded.
            return
        tls = self._tls_context() if self.cfg.is_ssl else None
        try:
            self.loop.run_until_complete(self._run_server(tls))
        except StartupFailed as error:
            self._fail_boot(f"The application did not start: {error}", Arbiter.WORKER_BOOT_ERROR)
        except InvalidOption as error:
            self._fail_boot(str(error), Arbiter.WORKER_BOOT_ERROR)
        except WorkerExit:
            self._is_leaving = True
            if self._server is not None:
                self._server.abort()
            raise
        finally:
            self._close_loop()

    def _tls_context(self) -> ssl.SSLContext:
        try:
            context: ssl.SSLContext = sock.ssl_context(self.cfg)
            return context
        except Exception as error:
            self.log.exception("TLS can't be set up")
            files = f"certfile {self.cfg.certfile!r}, keyfile {self.cfg.keyfile!r}, ca_certs {self.cfg.ca_certs!r}"
            self._fail_boot(f"TLS can't be set up from {files}: {error}", Arbiter.WORKER_BOOT_ERROR)

    async def _run_server(self, tls: ssl.SSLContext | None) -> None:
        self._server = Server(
            self.wsgi,
            self._settings,
            [listener.sock for listener in self.sockets],
            self.log,
            tls=tls,
            access_log=self.log.access if self._is_access_logged() else None,
            heartbeat=self._heartbeat,
            max_requests=self.max_requests if self.cfg.max_requests else 0,
            upgrades=self.UPGRADES,
            directory=self._directory,
        )
        if not self.alive:
            self._server.stop()
        await self._server.serve()

    def _is_access_logged(self) -> bool:
        """Whether anything becomes of a call of ``log.access``: a line, or what another class of logger makes of it."""
        cfg = self.cfg
        to_syslog = cfg.syslog and not cfg.disable_redirect_access_to_syslog
        configured = cfg.accesslog or cfg.logconfig or cfg.logconfig_dict or cfg.logconfig_json or to_syslog
        return self._settings.access_log and bool(configured or type(self.log).access is not Logger.access)

    def _heartbeat(self) -> None:
        """Once a second, draining included."""
        self.notify()
        if not self.alive:  # A signal's handler has stopped the server itself; the reloader's thread has only said so.
            self._stop()
        elif self.ppid != os.getppid():
            self.log.info("The master has gone: %s shuts down", self)
            self.alive = False
            self._stop()

    def _stop(self) -> None:
        if self._server is not None:
            self._server.stop()

    def _close_loop(self) -> None:
        """Let the tasks that are left see their cancellation, for a moment, and close the loop."""
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=0.5))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def _leave(self, status: int) -> None:
        """End the process from a signal handler, through whatever code is running.

        The loop (in a callback of a transport) and applications (by ``except:``) can swallow what is raised here, so
        it is raised once more from the loop itself.
        """
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._raise_exit, status)
        self._raise_exit(status)

    def _raise_exit(self, status: int) -> None:
        if not self._is_leaving:
            raise WorkerExit(status)

    # Signals. Plain handlers, because those of a loop would wait for code that blocks it.

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: drain. Gunicorn sends it again every second."""
        self.alive = False
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._stop)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """SIGINT and SIGQUIT: stop at once."""
        self.alive = False
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGQUIT, signal.SIG_IGN)
        self.cfg.worker_int(self)
        self._leave(0)

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """SIGABRT: the master has missed the heartbeat. Say where the worker hangs, and end."""
        self.alive = False
        stack = "".join(traceback.format_stack(frame))
        self.log.critical("Worker (pid:%s) was aborted while it ran:\n%s", self.pid, stack)
        self.cfg.worker_abort(self)
        self._leave(1)


def _ignore_exits(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The handler of what nobody else handles: a task that was left by a signal has failed in nothing."""
    if not isinstance(context.get("exception"), WorkerExit):
        loop.default_exception_handler(context)


class UvicornH11Worker(UvicornWorker):
    """The same worker by another name, for configurations that have it."""

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        log.warning("UvicornH11Worker is UvicornWorker by another name: HTTP/1.1 is parsed by httptools")
        super().check_config(cfg, log)
