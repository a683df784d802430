"""All the runs, interleaved: each repeat has every contender once, in an order of its own, so that what changes on the
machine meanwhile changes all of them alike."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import uvloop

from benchmarks import measure
from benchmarks.callgrind import Callgrind
from benchmarks.contenders import Contender
from benchmarks.drivers import Load, Unable, Wrong, wrk
from benchmarks.drivers.http import Requests
from benchmarks.drivers.websocket import Broadcasts
from benchmarks.report import Result, Sample
from benchmarks.server import Server, self_signed
from benchmarks.workloads import Workload

#: Seconds in which a server has to answer; under valgrind it takes far longer.
START, START_BY_VALGRIND = 30.0, 300.0

#: Seconds of load before those that count, at most.
WARM_UP = 0.5

#: Seconds that the last replies of a run may take.
STALL = 30.0

#: Connections that come and go before idle ones are counted.
IDLE_BEFORE = 50


@dataclass(frozen=True)
class Plan:
    """What to do."""

    workloads: Sequence[Workload]
    contenders: Sequence[Contender]
    #: The Python of each environment.
    pythons: Mapping[str, str]
    repeats: int
    #: How long each run lasts.
    seconds: float
    #: What makes the order of the contenders; the same makes the same.
    seed: int
    #: How instructions are counted: ``perf``, ``callgrind`` or ``none``.
    instructions: str
    #: Whether HTTP is driven by wrk.
    by_wrk: bool
    #: The numbers of the cores for the server and for the driver.
    server_cpu: int
    driver_cpu: int

    @property
    def runs(self) -> int:
        return self.repeats * len(self.workloads) * len(self.contenders)


class Campaign:
    """The runs of a plan; ``tell`` is called with a line about each, and with how many are done."""

    def __init__(self, plan: Plan, tell: Callable[[str, int], None]) -> None:
        self._plan, self._tell = plan, tell
        self.results = {
            workload.name: {contender.name: Result(reason=contender.cannot(workload)) for contender in plan.contenders}
            for workload in plan.workloads
        }

    def run(self) -> None:
        """Do everything; whatever happens, no process is left."""
        os.sched_setaffinity(0, {self._plan.driver_cpu})
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        with tempfile.TemporaryDirectory() as folder, runner as self._runner:
            self._folder = Path(folder)
            if any(workload.tls for workload in self._plan.workloads):
                self_signed(self._folder)
            for done, (workload, contender, repeat) in enumerate(self._order()):
                self._tell(f"{workload.name}, {contender.name}, {repeat + 1} of {self._plan.repeats}", done)
                self._attempt(workload, contender, repeat)

    def _order(self) -> Iterator[tuple[Workload, Contender, int]]:
        dice = random.Random(self._plan.seed)
        for repeat in range(self._plan.repeats):
            for workload in self._plan.workloads:
                contenders = list(self._plan.contenders)
                dice.shuffle(contenders)
                for contender in contenders:
                    yield workload, contender, repeat

    def _attempt(self, workload: Workload, contender: Contender, repeat: int) -> None:
        result = self.results[workload.name][contender.name]
        if result.reason:
            return
        try:
            sample = self._measured(workload, contender)
            if self._plan.instructions == "callgrind" and not workload.idle:
                # Once is enough: it hardly differs from run to run.
                known = result.samples[0] if repeat else {"instructions": self._counted(workload, contender)}
                sample = {**sample, "instructions": known["instructions"]}
            result.samples.append(sample)
        except (Unable, Wrong, OSError) as error:
            result.reason = str(error) or type(error).__name__

    # -- one run

    def _measured(self, workload: Workload, contender: Contender) -> Sample:
        with self._serving(workload, contender) as server:
            self._runner.run(server.ready(workload.traffic.check, START))
            return self._idle(workload, server) if workload.idle else self._loaded(workload, server)

    @contextlib.contextmanager
    def _serving(self, workload: Workload, contender: Contender, wrapper: Sequence[str] = ()) -> Iterator[Server]:
        python = self._plan.pythons[contender.environment]
        server = Server(contender, workload, python, self._folder, self._plan.server_cpu)
        with server.start(_environment_for(python), wrapper):
            yield server

    def _loaded(self, workload: Workload, server: Server) -> Sample:
        self._bundled(workload, server, min(WARM_UP, self._plan.seconds))
        pids, logged = server.pids(), server.logged()
        used = sum(map(measure.cpu_seconds, pids))
        perf = measure.Perf(pids) if self._plan.instructions == "perf" else None
        with perf or contextlib.nullcontext():
            load = self._drive(workload, server)
        used = sum(map(measure.cpu_seconds, pids)) - used
        if workload.access_log and server.logged() - logged < 20 * load.requests:
            raise Wrong("writes no access log, or not of every request")
        sample = {
            "rate": load.requests / load.seconds,
            "cpu": used / load.requests * 1e6,
            "memory": measure.peak_memory(measure.worker_of(pids)) / 2**20,
            "p50": load.p50 * 1e3,
            "p99": load.p99 * 1e3,
        }
        return {**sample, "instructions": perf.count / load.requests} if perf and perf.count else sample

    def _drive(self, workload: Workload, server: Server) -> Load:
        traffic = workload.traffic
        if self._plan.by_wrk and isinstance(traffic, Requests):
            return wrk.drive(traffic, server.target, self._plan.seconds)
        return self._bundled(workload, server, self._plan.seconds)

    def _bundled(self, workload: Workload, server: Server, seconds: float) -> Load:
        drive = workload.traffic.drive(server.target, seconds)
        try:
            return self._runner.run(asyncio.wait_for(drive, seconds + STALL))
        except TimeoutError:
            raise Wrong(f"has not answered all requests {STALL:g} s after the last") from None

    def _idle(self, workload: Workload, server: Server) -> Sample:
        traffic = workload.traffic
        assert not isinstance(traffic, Broadcasts)
        pids = server.pids()

        async def per_connection() -> float:
            async with replace(traffic, connections=IDLE_BEFORE).held(server.target):
                pass  # What is allocated once is there from now on.
            before = measure.own_memory(pids)
            async with traffic.held(server.target):
                return (measure.own_memory(pids) - before) / traffic.connections

        return {"idle": self._runner.run(per_connection()) / 1024}

    def _counted(self, workload: Workload, contender: Contender) -> float:
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            callgrind = Callgrind(Path(folder))
            with self._serving(workload, contender, callgrind.wrapper) as server:
                self._runner.run(server.ready(workload.traffic.check, START_BY_VALGRIND))

                seconds = max(2, self._plan.seconds)
                self._bundled(workload, server, seconds)
                return callgrind.per_request(server, lambda: self._bundled(workload, server, seconds))


def _environment_for(python: str) -> dict[str, str]:
    """The environment without what would tell servers and Python something; our own Python finds what we find."""
    told = ("GUNICORN_", "GRANIAN_", "UVICORN_", "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS", "PYTHON")
    kept = ("PYTHONPATH",) if python == sys.executable else ()
    return {name: value for name, value in os.environ.items() if not name.startswith(told) or name in kept}
