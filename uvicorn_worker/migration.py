"""Parameters of ``uvicorn.Config`` that ``CONFIG_KWARGS`` may have from before, and have no meaning here.

Those that have one are options by the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Foreign(NamedTuple):
    """A parameter that is accepted with a word, or refused."""

    #: What to do instead.
    advice: str
    #: Values that ask for what is done here anyway.
    fine: tuple[Any, ...] = ()
    #: Whether ignoring it could do harm.
    refused: bool = False


_BIND = Foreign("Gunicorn's bind says where to listen")
_RELOAD = Foreign("Gunicorn's reload and its kin do that", (False,))
_LOGS = Foreign("Gunicorn's settings for logs do that")
_TLS = Foreign("Gunicorn's keyfile, certfile and their kin do that", refused=True)
_MASTER = Foreign("Gunicorn's master does that")

FOREIGN: Mapping[str, Foreign] = {
    "app": Foreign("Gunicorn's command line names the application", refused=True),
    "host": _BIND,
    "port": _BIND,
    "uds": _BIND,
    "fd": _BIND,
    "backlog": Foreign("Gunicorn's backlog does that"),
    "http": Foreign("HTTP/1.1 is parsed by httptools", ("auto", "httptools")),
    "http2": Foreign("HTTP/2 is not served", (False,), refused=True),
    "env_file": Foreign("set Gunicorn's raw_env, or load it in gunicorn.conf.py", refused=True),
    "log_config": _LOGS,
    "log_level": _LOGS,
    "use_colors": _LOGS,
    "reload": _RELOAD,
    "reload_dirs": _RELOAD,
    "reload_delay": _RELOAD,
    "reload_includes": _RELOAD,
    "reload_excludes": _RELOAD,
    "workers": Foreign("Gunicorn's workers does that"),
    "limit_concurrency": Foreign("Gunicorn's worker_connections limits connections, which then wait"),
    "limit_max_requests": Foreign("Gunicorn's max_requests does that"),
    "limit_max_requests_jitter": Foreign("Gunicorn's max_requests_jitter does that", (0,)),
    "timeout_notify": _MASTER,
    "timeout_worker_healthcheck": _MASTER,
    "callback_notify": _MASTER,
    "timeout_graceful_shutdown": Foreign("Gunicorn's graceful_timeout does that"),
    "ssl_keyfile": _TLS,
    "ssl_certfile": _TLS,
    "ssl_keyfile_password": _TLS._replace(advice="Gunicorn's ssl_context hook can load the key with its password"),
    "ssl_version": _TLS._replace(fine=(17,)),
    "ssl_cert_reqs": _TLS._replace(fine=(0,)),
    "ssl_ca_certs": _TLS,
    "ssl_ciphers": _TLS,
    "ssl_context_factory": Foreign("Gunicorn's ssl_context hook does that", refused=True),
    "factory": Foreign("name a call, as in app:create_app()", (False,), refused=True),
    "h11_max_incomplete_event_size": Foreign("Gunicorn's limit_request_line and its kin do that"),
    "reset_contextvars": Foreign("each connection begins in a context of its own", (False, True)),
}


def judge(name: str, value: Any) -> Foreign | None:
    """What there is to say of a parameter of uvicorn's that is given, if anything is."""
    foreign = FOREIGN[name]
    is_fine = value is None or any(value == fine for fine in foreign.fine)
    return None if is_fine else foreign
