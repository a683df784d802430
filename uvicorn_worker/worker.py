"""Gunicorn's edge: a worker class."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import FrameType
from typing import Any, ClassVar, NoReturn

import gunicorn
import uvloop
from gunicorn import sock
from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

from uvicorn_worker.clock import tick_under
from uvicorn_worker.config import RELOAD_GRACE, TASK_GRACE, THREAD_GRACE, Settings
from uvicorn_worker.development import error_page, files_of
from uvicorn_worker.errors import InvalidOption, LoadFailed, StartupFailed, WorkerExit
from uvicorn_worker.gunicorn_settings import judge
from uvicorn_worker.http11.upgrade import UpgradeHandler
from uvicorn_worker.inherited import directory_of_master, keep_shared, signals_before
from uvicorn_worker.leaving import close_loop, ignore_exits, leave, leave_within, status_by
from uvicorn_worker.loading import load
from uvicorn_worker.observation import Observation, lend_handlers
from uvicorn_worker.options import read_options, settings_under
from uvicorn_worker.server import UPGRADES, Server, read_upgrades
from uvicorn_worker.tls import Contexts

if gunicorn.version_info < (23, 0):  # As setup.cfg says; Gunicorn shows a RuntimeError as one line.
    raise RuntimeError(f"Gunicorn {gunicorn.__version__} is too old for this worker: pip install -U 'gunicorn>=23'")

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
    def check_application(cls, app: Any) -> None:
        """Load what ``app``, Gunicorn's object for an application, names, as a worker would.

        Raises :class:`LoadFailed`, and whatever else is raised by the application's modules.
        """
        load(app, cls._settings_of(app.cfg).interface)

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
        return settings_under(cfg, read_options(cls.CONFIG_KWARGS, os.environ | cfg.env, notice=notice))

    # Booting.

    def __init__(self, *arguments: Any, **more: Any) -> None:
        """Called in the master, with its privileges, for each worker that it starts.

        What is wrong is kept for the new process to say: raised here, it would end the master of a site that reloads.
        """
        super().__init__(*arguments, **more)
        self._error: InvalidOption | None = None
        self._directory: str | None = None
        try:
            self._tls = _CONTEXTS.context_of(self.cfg, self.log) if self.cfg.is_ssl else None
            self._directory = directory_of_master(self.cfg, self._settings_of(self.cfg).groups, self.log)
        except InvalidOption as error:
            self._error = error
        except OSError as error:
            reason = f"the workers have no directory to find each other in: {error}"
            self._error = InvalidOption(f"worker_tmp_dir = {self.cfg.worker_tmp_dir!r}: {reason}")

    def init_process(self) -> None:
        """Called in the new process. The loop comes first, so that ``post_worker_init`` finds it."""
        keep_shared()
        self._server: Server | None = None
        #: When the first signal to drain came, on the clock ``time.monotonic``.
        self._told_at: float | None = None
        self._is_quitting = self._is_ending = False
        self._worker_exit = self.cfg.worker_exit
        self.cfg.set("worker_exit", self._exit)
        self.tmp.close = lambda: None  # Gunicorn closes it before worker_exit, when threads may still hold the process.
        try:
            if self._error is not None:
                raise self._error
            self._settings = self._settings_of(self.cfg)
            read_upgrades(self.UPGRADES)
        except InvalidOption as error:  # The master asks check_config when it starts, but not when it reloads.
            self._fail_boot(str(error), Arbiter.WORKER_BOOT_ERROR)
        lend_handlers(self.log)
        self.loop = asyncio.new_event_loop() if self._settings.loop == "asyncio" else uvloop.new_event_loop()
        self.loop.set_exception_handler(ignore_exits)
        self._threads = ThreadPoolExecutor(thread_name_prefix="asyncio")
        self.loop.set_default_executor(self._threads)
        asyncio.set_event_loop(self.loop)
        super().init_process()

    def load_wsgi(self) -> None:
        """Load the application; a failure stops the master with one line and a status of 3, or 4 for an import.

        With ``reload`` on, it is shown to whoever asks until a file has changed.
        """
        try:
            self._load_or_show()
        except LoadFailed as failure:
            if failure.needs_traceback:
                self.log.error("The application could not be imported", exc_info=failure.__cause__)
            self._fail_boot(str(failure), failure.status)

    def _load_or_show(self) -> None:
        try:
            self.wsgi = load(self.app, self._settings.interface)
        except WorkerExit:
            raise
        except (Exception, SystemExit) as error:
            if self.reloader is None or (isinstance(error, LoadFailed) and error.is_misspelt):
                raise
            cause = error.__cause__ if isinstance(error, LoadFailed) and error.__cause__ else error
            self.log.error("The application could not be loaded", exc_info=cause)
            for file in files_of(cause):
                self.reloader.add_extra_file(file)
            self._show("".join(traceback.format_exception(cause)))

    def _show(self, failure: str) -> None:
        """Serve a page that tells of a failure in the place of the application."""
        self.wsgi = error_page(failure)
        self._settings = replace(self._settings, interface="channels")

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
        except InvalidOption as error:
            self._fail_boot(str(error), Arbiter.WORKER_BOOT_ERROR)
        except WorkerExit:
            self._is_quitting = True
            if self._server is not None:
                self._server.abort()
            raise
        finally:
            close_loop(self.loop, self._task_grace)

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
            observer=Observation(self, self._settings, self.loop).observer(),
            heartbeat=self._heartbeat,
            threads=self._threads,
            max_requests=self.max_requests if self.cfg.max_requests else 0,
            upgrades=self.UPGRADES,
            directory=self._directory,
        )
        self._stop_if_told()
        return self._server

    def _heartbeat(self) -> None:
        """Once a second, starting and draining included.

        Gunicorn watches a worker from its first notice on, and an application may hold the loop while it starts.
        """
        if self._server is not None and self._server.started:
            self.notify()
        if self.alive and self.ppid != os.getppid():
            self.log.info("The master has gone: %s shuts down", self)
            self.alive = False
        self._stop_if_told()

    def _woken(self) -> None:
        """Something was written to the pipe: by the reloader or, where the loop leaves them to Gunicorn, by signals."""
        os.read(self.PIPE[0], 4096)
        self._stop_if_told()

    def _stop_if_told(self) -> None:
        """Stop the server if a signal, the reloader's thread or a hook has said so."""
        if not self.alive and self._server is not None:
            is_reload = self.reloader is not None and self._told_at is None
            self._server.stop(RELOAD_GRACE if is_reload else math.inf)

    @property
    def _task_grace(self) -> float:
        """For worker_exit to come before SIGKILL, three times less than a drain leaves of a short graceful_timeout."""
        return min(TASK_GRACE, self._settings.graceful_timeout / 40)

    def _leave(self, status: int) -> None:
        """End the process from a signal handler, through whatever code is running.

        The loop (in a callback of a transport) and applications (by ``except:``) can swallow what is raised here, so
        it is raised once more from the loop itself.
        """
        if self._is_ending:  # The interpreter waits for threads, and would swallow it, too.
            leave(status, self.log)
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._raise_exit, status)
        self._raise_exit(status)

    def _raise_exit(self, status: int) -> None:
        if not self._is_quitting:
            raise WorkerExit(status)

    def _exit(self, server: Any, worker: Worker) -> None:
        """Gunicorn's hook ``worker_exit``; behind it, the interpreter waits for threads, some of which never end."""
        self._is_ending = True
        status = self._status_by(sys.exception())
        try:
            self._worker_exit(server, worker)
        finally:
            leave_within(self._thread_grace(), status, self.log, self.notify, tick_under(self.cfg.timeout))

    def _status_by(self, error: BaseException | None) -> int:
        """The status that Gunicorn has a worker end with."""
        return status_by(error, 255 if self.booted else Arbiter.WORKER_BOOT_ERROR)

    def _thread_grace(self) -> float:
        """What is left of the time for the stop under way."""
        end = self._told_at and self._told_at + self._settings.graceful_timeout
        if self._server is not None:
            end = self._server.deadline
        if end is None or self._is_quitting:
            return THREAD_GRACE
        return max(THREAD_GRACE, end - self._task_grace - time.monotonic())

    # Signals. Plain handlers, because those of a loop would wait for code that blocks it.

    def init_signals(self) -> None:
        """Called early in ``init_process``; a signal may have come still earlier."""
        handler = signal.getsignal(signal.SIGTERM)
        super().init_signals()
        for number in signals_before(handler):
            if number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1):
                signal.raise_signal(number)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: drain. Gunicorn sends it again every second."""
        self.alive = False
        if self._told_at is None:
            self._told_at = time.monotonic()
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._stop_if_told)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """SIGINT and SIGQUIT: stop at once."""
        self.alive = False
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGQUIT, signal.SIG_IGN)
        self._leave(self._status_after(self.cfg.worker_int, 0))

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """SIGABRT: the master has missed the heartbeat. Say where the worker hangs, and end."""
        self.alive = False
        stack = "".join(traceback.format_stack(frame))
        self.log.critical("Worker (pid:%s) was aborted while it ran:\n%s", self.pid, stack)
        self._leave(self._status_after(self.cfg.worker_abort, 1))

    def _status_after(self, hook: Callable[[Worker], object], status: int) -> int:
        """Call a hook on the way out, which it can't bar; where it raises, the status is what Gunicorn makes it."""
        try:
            hook(self)
        except BaseException as error:
            if not isinstance(error, SystemExit):
                self.log.exception("A hook raised when the worker was told to end at once")
            return self._status_by(error)
        return status


class UvicornH11Worker(UvicornWorker):
    """The same worker by another name, for configurations that have it."""

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        log.warning("UvicornH11Worker is UvicornWorker by another name: HTTP/1.1 is parsed by httptools")
        super().check_config(cfg, log)
