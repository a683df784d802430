"""Environments for the contenders: this package has the import name of a peer, so they can't share one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.contenders import OWN

TREE = Path(__file__).parents[1]
PINS = Path(__file__).with_name("peers.txt")

#: What of it this worker runs on, too, and its applications.
SHARED = ("fastapi", "gunicorn", "httptools", "uvloop", "websockets")


def python_of(environment: str, folder: Path) -> str:
    """The Python of an environment, which is made in the folder if it isn't there as it should be.

    :raises subprocess.CalledProcessError: if it can't be made; pip has told why.
    """
    home = folder / environment
    python = str(home / "bin" / "python")
    stamp = home / "made-of.txt"
    wanted = f"{sys.version}\n{PINS.read_text(encoding='utf-8')}"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        pip(python, *(pin for pin in pins() if environment != OWN or pin.split()[0] in SHARED))
        stamp.write_text(wanted, encoding="utf-8")
    if environment == OWN:
        install_tree(python)
    return python


def pins() -> list[str]:
    """The requirements for the peers' environment."""
    lines = PINS.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def install_tree(python: str) -> None:
    """Install the package of this tree, from a copy: a build leaves files, which a later one would take."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("setup.cfg", "setup.py", "README.rst", "LICENSE"):
            shutil.copy(TREE / name, copy)
        shutil.copytree(TREE / "uvicorn_worker", copy / "uvicorn_worker")
        pip(python, str(copy))


def pip(python: str, *what: str) -> None:
    subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *what], check=True)


def versions_of(python: str) -> dict[str, str]:
    """The versions of Python and of all distributions."""
    code = (
        "import importlib.metadata as m, json, platform;"
        "print(json.dumps({'python': platform.python_version()} | {d.name: d.version for d in m.distributions()}))"
    )
    found = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout
    return dict(sorted(json.loads(found).items()))
