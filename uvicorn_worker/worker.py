"""Gunicorn's edge: a worker class. Nothing else here imports Gunicorn."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any, ClassVar, NoReturn

import uvloop
from gunicorn import SERVER_SOFTWARE, sock
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError
from gunicorn.glogging import Logger, SafeAtoms
from gunicorn.workers.base import Worker

from uvicorn_worker._types import Hooks
from uvicorn_worker.access_log import Entry
from uvicorn_worker.access_writer import AccessWriter
from uvicorn_worker.config import RELOAD_GRACE, TASK_GRACE, THREAD_GRACE, Settings, read_options
from uvicorn_worker.development import error_page, files_of
from uvicorn_worker.errors import InvalidApplication, InvalidOption, StartupFailed, WorkerExit
from uvicorn_worker.gunicorn_settings import judge
from uvicorn_worker.http11.upgrade import UpgradeHandler
from uvicorn_worker.interfaces.detect import detect_interface
from uvicorn_worker.observe import Observer
from uvicorn_worker.server import UPGRADES, Server, read_upgrades
from uvicorn_worker.tls import Contexts
from uvicorn_worker.views import environ_of

_CONTEXTS = Contexts(sock.ssl_context)


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
            if cfg.is_ssl:
                _CONTEXTS.context_of(cfg, log)
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
        for verdict in judge(cfg):
            if verdict.is_refused:
                raise InvalidOption(verdict.line)
            if notice is not None:
                notice(verdict.line)
        return Settings.from_gunicorn(cfg, read_options(cls.CONFIG_KWARGS, os.environ | cfg.env, notice=notice))

    # Booting.

    def __init__(self, *arguments: Any, **more: Any) -> None:
        """Called in the master, with its privileges, for each worker that it starts.

        What is wrong is kept for the new process to say: raised here, it would end the master of a site that reloads.
        """
        super().__init__(*arguments, **more)
        self._error: InvalidOption | None = None
        try:
            self._tls = _CONTEXTS.context_of(self.cfg, self.log) if self.cfg.is_ssl else None
        except InvalidOption as error:
            self._error = error

    def init_process(self) -> None:
        """Called in the new process. The loop comes first, so that ``post_worker_init`` finds it."""
        try:
            if self._error is not None:
                raise self._error
            self._settings = self._settings_of(self.cfg)
            read_upgrades(self.UPGRADES)
        except InvalidOption as error:  # The master asks check_config when it starts, but not when it reloads.
            self._fail_boot(str(error), Arbiter.WORKER_BOOT_ERROR)
        self._lend_handlers()
        self._server: Server | None = None
        self._was_signalled = False
        self._is_leaving = False
        self._status: int = 0
        self.loop: asyncio.AbstractEventLoop
        self.loop = asyncio.new_event_loop() if self._settings.loop == "asyncio" else uvloop.new_event_loop()
        self.loop.set_exception_handler(_ignore_exits)
        self._threads = ThreadPoolExecutor(thread_name_prefix="asyncio")
        self.loop.set_default_executor(self._threads)
        asyncio.set_event_loop(self.loop)
        self._worker_exit = self.cfg.worker_exit
        self.cfg.set("worker_exit", self._exit)
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
        """Load the application; a failure stops the master with one line and a status of 3, or 4 for an import.

        With ``reload`` on, it is shown to whoever asks until a file has changed.
        """
        try:
            self._load_or_show()
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

    def _load_or_show(self) -> None:
        try:
            self.wsgi = self.app.wsgi()
            detect_interface(self.wsgi, self._settings.interface)
        except WorkerExit:
            raise
        except (Exception, SystemExit) as error:
            is_misspelt = isinstance(error, ImportError) and self._is_application_module(error.name)
            if self.reloader is None or is_misspelt:
                raise
            self.log.exception("The application could not be loaded")
            for file in files_of(error):
                self.reloader.add_extra_file(file)
            self._show("".join(traceback.format_exception(error)))

    def _show(self, failure: str) -> None:
        """Serve a page that tells of a failure in the place of the application."""
        self.wsgi = error_page(failure)
        self._settings = replace(self._settings, interface="channels")

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
        try:
            self.loop.run_until_complete(self._run_server())
        except StartupFailed as error:
            self._fail_boot(f"The application did not start: {error}", Arbiter.WORKER_BOOT_ERROR)
        except WorkerExit:
            self._is_leaving = True
            if self._server is not None:
                self._server.abort()
            raise
        finally:
            self._close_loop()

    async def _run_server(self) -> None:
        self.loop.add_reader(self.PIPE[0], self._woken)
        try:
            await self._make_server().serve()
        except StartupFailed as error:
            if self.reloader is None:
                raise
            self._show(f"The application did not start: {error}")
            self.log.error("The application did not start: %s", error)
            await self._make_server().serve()

    def _make_server(self) -> Server:
        self._server = Server(
            self.wsgi,
            self._settings,
            [listener.sock for listener in self.sockets],
            self.log,
            tls=self._tls,
            observer=self._make_observer(),
            heartbeat=self._heartbeat,
            threads=self._threads,
            max_requests=self.max_requests if self.cfg.max_requests else 0,
            upgrades=self.UPGRADES,
        )
        self._stop_if_told()
        return self._server

    def _make_observer(self) -> Observer | None:
        """What is told of requests, if anybody wants to know."""
        access_log = self.log.access if self._is_access_logged() else None
        hooks = self._hooks()
        if access_log is None and hooks == Hooks():
            return None
        return Observer(self.log, access_log, writer=self._access_writer(), environ=self._environ(), hooks=hooks)

    def _is_access_logged(self) -> bool:
        """Whether anything becomes of a call of ``log.access``: a line, or what another class of logger makes of it."""
        cfg = self.cfg
        to_syslog = cfg.syslog and not cfg.disable_redirect_access_to_syslog
        configured = cfg.accesslog or cfg.logconfig or cfg.logconfig_dict or cfg.logconfig_json or to_syslog
        return self._settings.access_log and bool(configured or type(self.log).access is not Logger.access)

    def _access_writer(self) -> AccessWriter | None:
        """What comes to the same as calling ``log.access``, for much less, where the logger is Gunicorn's own."""
        if not self._is_access_logged() or type(self.log) is not Logger or Logger.atoms_wrapper_class is not SafeAtoms:
            return None
        log, cfg = self.log, self.cfg
        try:
            return AccessWriter(cfg.access_log_format, self._environ_of, log.access_log, log, self.loop.call_soon)
        except (TypeError, ValueError):  # The logger will say what is wrong with it.
            return None

    def _environ_of(self, entry: Entry) -> Mapping[str, Any]:
        return environ_of(entry, self._environ())

    def _environ(self) -> dict[str, Any]:
        """What the environments of all requests have in common, for hooks and loggers."""
        return {"SERVER_SOFTWARE": SERVER_SOFTWARE, "wsgi.version": (1, 0), "wsgi.multiprocess": self.cfg.workers > 1}

    def _hooks(self) -> Hooks:
        """The hooks around requests; Gunicorn's own do nothing, but for a line at the level of debugging."""
        before, after = self.cfg.settings["pre_request"], self.cfg.settings["post_request"]
        has_after = after.get() != after.default
        is_debugging = getattr(self.log, "loglevel", logging.INFO) <= logging.DEBUG
        if not has_after and not is_debugging and before.get() == before.default:
            return Hooks()
        return Hooks(self._before_request, partial(self.cfg.post_request, self) if has_after else None)

    def _before_request(self, request: Any) -> None:
        self.cfg.pre_request(self, request)
        self.nr += 1  # For hooks to see.

    def _heartbeat(self) -> None:
        """Once a second, draining included."""
        self.notify()
        if self.alive and self.ppid != os.getppid():
            self.log.info("The master has gone: %s shuts down", self)
            self.alive = False
            self._stop()
        self._stop_if_told()

    def _woken(self) -> None:
        """Something was written to the pipe: by the reloader or, where the loop leaves them to Gunicorn, by signals."""
        os.read(self.PIPE[0], 4096)
        self._stop_if_told()

    def _stop_if_told(self) -> None:
        """A signal's handler stops the server itself; the reloader's thread can only say so."""
        if not self.alive and self._server is not None:
            self._server.stop(self._settings.graceful_timeout if self._was_signalled else RELOAD_GRACE)

    def _stop(self) -> None:
        if self._server is not None:
            self._server.stop()

    def _close_loop(self) -> None:
        """Let the tasks that are left see their cancellation, for a moment, and close the loop."""
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            # For worker_exit to come before SIGKILL, less than what a drain leaves of a short graceful_timeout.
            grace = min(TASK_GRACE, self._settings.graceful_timeout / 40)
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=grace))
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
        self._status = status
        if not self._is_leaving:
            raise WorkerExit(status)

    def _exit(self, server: Any, worker: Worker) -> None:
        """Gunicorn's hook ``worker_exit``; behind it, the interpreter waits for threads, some of which never end."""
        try:
            self._worker_exit(server, worker)
        finally:
            timer = threading.Timer(THREAD_GRACE, self._leave_threads)
            timer.daemon = True
            timer.start()

    def _leave_threads(self) -> None:
        main = threading.main_thread()
        left = [thread.name for thread in threading.enumerate() if not thread.daemon and thread is not main]
        if left:
            self.log.warning("Threads are still running and left behind: %s", ", ".join(left))
            os._exit(self._status)

    # Signals. Plain handlers, because those of a loop would wait for code that blocks it.

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: drain. Gunicorn sends it again every second."""
        self.alive = False
        self._was_signalled = True
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
