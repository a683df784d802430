"""The application that Gunicorn is told to serve, or one line that says why it can't be."""

from __future__ import annotations

import os
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError

from uvicorn_worker.errors import InvalidApplication, LoadFailed, WorkerExit
from uvicorn_worker.interfaces.detect import applications_beside, detect_interface, fault_of_uri


def load(app: Any, interface: str) -> Any:
    """What ``app``, Gunicorn's object for one, loads.

    Raises :class:`LoadFailed` from what was raised, where a line can say it, and anything else that the application's
    modules raise.
    """
    uri: str = getattr(app, "app_uri", None) or ""
    if not app.cfg.paste and (fault := fault_of_uri(uri)):  # paste names a file
        raise _not_imported(fault, is_misspelt=True)
    try:
        loaded = app.wsgi()
        detect_interface(loaded, interface)
    except ImportError as error:
        if not _is_about(uri, error):
            raise _not_imported(str(error)) from error
        hint = f"{error} (looked for in {os.getcwd()}; --chdir says where else)"
        raise _not_imported(hint, is_misspelt=True) from error
    except AppImportError as error:
        line = f"The application could not be loaded: {error}{applications_beside(uri)}"
        raise LoadFailed(line, Arbiter.APP_LOAD_ERROR) from error
    except WorkerExit:
        raise
    except SystemExit as error:
        line = f"The application exited when it was imported: {error}"
        raise LoadFailed(line, Arbiter.WORKER_BOOT_ERROR) from error
    except InvalidApplication as error:
        raise LoadFailed(f"Not an application: {error}", Arbiter.WORKER_BOOT_ERROR) from error
    return loaded


def _not_imported(why: str, *, is_misspelt: bool = False) -> LoadFailed:
    line = f"The application could not be imported: {why}"
    return LoadFailed(line, Arbiter.APP_LOAD_ERROR, is_misspelt=is_misspelt)


def _is_about(uri: str, error: ImportError) -> bool:
    """Whether a module that wasn't found is the one that the command line names, or a package of it."""
    name = error.name or getattr(error.__context__, "name", None)  # of a file, Gunicorn says what may be meant
    return name is not None and f"{uri.partition(':')[0]}.".startswith(f"{name}.")
