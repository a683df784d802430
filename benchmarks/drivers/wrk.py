"""HTTP by wrk, a client in C, which leaves a driver's core far more room than one in Python does."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.drivers import Load, Target, Wrong
from benchmarks.drivers.http import Requests

SCRIPT = Path(__file__).with_name("wrk.lua")


def can_drive(seconds: float) -> bool:
    """Whether wrk is installed, and can run for so long: it takes whole seconds."""
    return shutil.which("wrk") is not None and seconds >= 1 and seconds == int(seconds)


def drive(requests: Requests, target: Target, seconds: float) -> Load:
    """Ask for so long.

    wrk looks at the statuses. It does not look at lengths, but it counts bytes: fewer than the content has are wrong.

    :raises Wrong: if a request failed, or less came than should have.
    """
    with tempfile.NamedTemporaryFile() as file:
        file.write(requests.sent)
        file.flush()
        size = ["-t1", f"-c{requests.connections}", f"-d{int(seconds)}s", "--timeout", "10s"]
        command = ["wrk", *size, "-s", str(SCRIPT), target.url, "--", file.name]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Wrong(f"wrk says {done.stderr.strip()[-300:]}")
    return judged(json.loads(done.stdout.strip().splitlines()[-1]), requests.expects)


def judged(summary: dict[str, int], expects: int) -> Load:
    """The load that wrk's script tells of.

    :raises Wrong: see :func:`drive`.
    """
    count = summary["requests"]
    if not count and not summary["failed"]:
        raise Wrong(f"wrk had no reply in {summary['microseconds'] / 1e6:.1f} s")
    if summary["failed"] or summary["bytes"] < count * expects:
        raise Wrong(f"wrk says {summary}, where a reply has {expects} bytes of content")
    return Load(count, summary["microseconds"] / 1e6, summary["p50"] / 1e6, summary["p99"] / 1e6)
