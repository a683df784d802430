"""Settings of Gunicorn's that can't be had under this worker, or mean nothing to it.

``docs/settings.rst`` says what becomes of every setting; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

#: What can't be had, and what to do instead: ignoring it would not serve what was asked for.
REFUSED: Mapping[str, str] = {
    "protocol": "only HTTP is spoken; leave it out, and have nginx use proxy_pass instead of uwsgi_pass",
    "http_protocols": "HTTP/2 and HTTP/3 are not served; leave it out, and have the proxy in front speak them",
    "http2_cleartext": "HTTP/2 is not served; leave it out, and have the proxy in front speak HTTP/1.1 to Gunicorn",
}

#: What is ignored when it is set, and what happens instead.
WARNED: Mapping[str, str] = {
    "threads": "each worker process has one event loop; more workers use more cores",
    "http_parser": "HTTP/1.1 is parsed by httptools",
    "permit_obsolete_folding": "a field on several lines gets a 400",
    "strip_header_spaces": "a space before the colon of a field gets a 400",
    "permit_unconventional_http_method": "methods are those that httptools knows, and others get a 501",
    "permit_unconventional_http_version": "HTTP/1.0 and HTTP/1.1 are served, and other versions get a 505",
    "casefold_http_method": "methods are case-sensitive (RFC 9110 section 9.1)",
    "suppress_ragged_eofs": "a connection that ends without TLS's farewell has ended",
}

#: What is ignored where there is no certificate.
OF_TLS = ("ca_certs", "cert_reqs", "ciphers", "ssl_context")


class Verdict(NamedTuple):
    """What there is to say of one setting that is away from its default."""

    line: str
    is_refused: bool


def is_set(cfg: Any, name: str) -> bool:
    """Whether this Gunicorn has the setting, and it is away from its default."""
    setting = cfg.settings.get(name)
    # A setting that is made anew has its default as its validator makes it: 'h1' has become ['h1'].
    return setting is not None and bool(setting.get() != type(setting)().get())


def describe(cfg: Any, name: str) -> str:
    """A setting with its value, for one line of a log."""
    value = cfg.settings[name].get()
    return f"{name} = {f'{value.__qualname__}()' if callable(value) else repr(value)}"


def judge(cfg: Any) -> Iterator[Verdict]:
    """What is asked of this worker in vain. ``cfg`` is Gunicorn's configuration."""
    for name, advice in REFUSED.items():
        if is_set(cfg, name):
            yield Verdict(f"{describe(cfg, name)} can't be had with this worker: {advice}", True)
    for name, advice in WARNED.items():
        if is_set(cfg, name):
            yield Verdict(f"{describe(cfg, name)} means nothing to this worker: {advice}", False)
    for name in OF_TLS:
        if is_set(cfg, name) and not cfg.is_ssl:
            yield Verdict(f"{describe(cfg, name)} means nothing without certfile: nothing is encrypted", False)
