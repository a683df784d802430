"""``python -m benchmarks [WORKLOAD or CONTENDER ...]``"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.campaign import Campaign, Plan
from benchmarks.contenders import CONTENDERS, OWN, REFERENCE
from benchmarks.drivers import wrk
from benchmarks.environments import python_of, versions_of
from benchmarks.plot import BARS, plot
from benchmarks.report import as_json, reasons, share_of_core, table
from benchmarks.workloads import WORKLOADS

#: What servers have of a core, below which their rates are not theirs alone.
IDLE_SHARE = 0.85

#: File descriptors that servers and drivers may need.
DESCRIPTORS = 8192


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, or show what was measured; return the status to exit with."""
    args = arguments().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    report = json.loads(args.show.read_text(encoding="utf-8")) if args.show else measured(args)
    print(table(report))
    print("\n".join(reasons(report)))
    share = share_of_core(report)
    if share is not None and share < IDLE_SHARE:
        print(f"\nThe servers had {share:.0%} of their core, as their drivers or others had no more time for them:")
        print("requests/s and latencies tell of that, too; CPU us tells of the servers.")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.plot:
        picture = plot(report, f"{report['made'][:10]}, {report['machine']}", args.bars)
        args.plot.write_text(picture, encoding="utf-8")
    return 130 if report["interrupted"] else 0


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure this worker and its peers, each with one worker process on a core of its own.",
        epilog=f"workloads: {', '.join(WORKLOADS)}. contenders: {', '.join(CONTENDERS)}.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", type=known, help="workloads and contenders; all, if none")
    parser.add_argument("--repeats", type=int, metavar="N", help="runs of each, of which medians are taken (5)")
    parser.add_argument("--seconds", type=float, metavar="S", help="length of a run (3)")
    parser.add_argument("--quick", action="store_true", help="one repeat of half a second, to see that all works")
    parser.add_argument("--seed", type=int, default=1, help="of the order of the contenders (1)")
    parser.add_argument("--driver", choices=["auto", "wrk", "asyncio"], default="auto", help="of HTTP (wrk, if it can)")
    how = ["auto", "perf", "callgrind", "none"]
    parser.add_argument("--instructions", choices=how, default="auto", help="how to count them (by perf, if it can)")
    parser.add_argument("--cpus", type=cpus, default=None, metavar="SERVER,DRIVER", help="numbers of the two cores")
    parser.add_argument("--machine", help="how reports name this machine")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to it")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write an SVG picture to it")
    parser.add_argument("--bars", choices=BARS, default="rate", help="it shows rates by the clock, or by CPU time")
    parser.add_argument("--show", type=Path, metavar="FILE", help="only show a file that --json has written")
    folder = Path("build", "benchmarks")
    parser.add_argument("--environments", type=Path, default=folder, metavar="FOLDER", help=f"for them ({folder})")
    parser.add_argument("--here", action="store_true", help="make none: this worker and the floor, by this Python")
    return parser


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Do what the arguments say; Ctrl-C ends it early, with what is known by then."""
    plan = planned(args)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, DESCRIPTORS) if most > 0 else DESCRIPTORS, most))
    campaign = Campaign(plan, Progress(plan.runs).tell)
    interrupted = False
    try:
        campaign.run()
    except KeyboardInterrupt:
        interrupted = True
        print("\ninterrupted; no process is left", file=sys.stderr)
    titles = {name: item.title for table in (WORKLOADS, CONTENDERS) for name, item in table.items()}
    names = [contender.name for contender in plan.contenders]
    return {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": args.machine or f"{os.cpu_count()} cores, {platform.machine()}",
        "driver": "wrk" if plan.by_wrk else "asyncio",
        "instructions": plan.instructions,
        "interrupted": interrupted,
        "repeats": plan.repeats,
        "seconds": plan.seconds,
        "seed": plan.seed,
        "versions": {environment: versions_of(python) for environment, python in plan.pythons.items()},
        **as_json(campaign.results, titles, REFERENCE if REFERENCE in names else names[0]),
    }


def planned(args: argparse.Namespace) -> Plan:
    """The plan that the arguments mean; environments are made for it."""
    contenders = [contender for name, contender in CONTENDERS.items() if name in args.names]
    contenders = contenders or [each for each in CONTENDERS.values() if each.environment == OWN or not args.here]
    environments = dict.fromkeys(contender.environment for contender in contenders)
    if args.here and list(environments) != [OWN]:
        sys.exit("peers need an environment of their own: leave --here out")
    seconds = args.seconds or (0.5 if args.quick else 3.0)
    server_cpu, driver_cpu = args.cpus or default_cpus()
    return Plan(
        workloads=[each for name, each in WORKLOADS.items() if name in args.names] or list(WORKLOADS.values()),
        contenders=contenders,
        pythons={name: sys.executable if args.here else made(name, args.environments) for name in environments},
        repeats=args.repeats or (1 if args.quick else 5),
        seconds=seconds,
        seed=args.seed,
        instructions=args.instructions if args.instructions != "auto" else "perf" if measure.perf_counts() else "none",
        by_wrk=args.driver == "wrk" or (args.driver == "auto" and wrk.can_drive(seconds)),
        server_cpu=server_cpu,
        driver_cpu=driver_cpu,
    )


def made(environment: str, folder: Path) -> str:
    print(f"environment: {environment}", file=sys.stderr)
    return python_of(environment, folder.absolute())


def known(name: str) -> str:
    """The name of a workload or of a contender."""
    if name not in WORKLOADS and name not in CONTENDERS:
        raise argparse.ArgumentTypeError(f"{name!r} is neither a workload nor a contender")
    return name


def cpus(text: str) -> tuple[int, int]:
    """Two numbers of cores."""
    server, driver = map(int, text.split(","))
    return server, driver


def default_cpus() -> tuple[int, int]:
    """The first core and the last; where there is only one, server and driver share it, and rates mean little."""
    ours = sorted(os.sched_getaffinity(0))
    return ours[0], ours[-1]


class Progress:
    """Tells on the standard error stream what is being done, and how long it will take."""

    def __init__(self, runs: int) -> None:
        self._runs, self._began = runs, time.monotonic()

    def tell(self, what: str, done: int) -> None:
        left = (time.monotonic() - self._began) / done * (self._runs - done) if done else 0
        ahead = f", {left / 60:.0f} min left" if done else ""
        line = f"[{done + 1}/{self._runs}{ahead}] {what}"
        if sys.stderr.isatty():
            line, end = f"\r\033[K{line}", "\n" * (done + 1 == self._runs)
        else:
            end = "\n"
        print(line, end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # While environments are made.
        sys.exit(130)
