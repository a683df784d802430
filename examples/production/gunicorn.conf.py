"""A whole configuration for production: copy it, and strike out what you do not need.

Gunicorn reads it from the directory that it is started in. What stands here is Python: it is run by the master at the
start, and by each reload (HUP). docs/settings.rst has every setting of Gunicorn, docs/options.rst every option.
"""

import os

from uvicorn_worker import UvicornWorker

# -- what is served, and where

wsgi_app = "app:production"
bind = ["127.0.0.1:8000"]  # or "unix:/run/app/gunicorn.sock"; with systemd's sockets, this is not looked at
backlog = 2048  # connections that wait to be accepted
proc_name = "production"  # what ps shows, where setproctitle is installed

# Worker processes: one for each core, as each runs one event loop; not the "2 x cores + 1" of threaded workers.
workers = int(os.environ.get("WEB_CONCURRENCY", os.cpu_count() or 1))

# -- the worker: what Gunicorn has no setting for


class Worker(UvicornWorker):
    CONFIG_KWARGS = {
        "server_header": False,
        "head_timeout": 10,  # seconds for the head of a request
        "ws_max_size": 1024 * 1024,  # bytes of a WebSocket message
        "ws_ping_interval": 20,  # seconds; a client that does not answer within ws_ping_timeout is gone
        "ws_ping_timeout": 20,
        "groups": "local://",  # or "redis://host:6379", where there are several machines
        "groups_gap": "close",  # clients that may have missed a message are closed, and connect again
    }


worker_class = Worker

# -- limits

worker_connections = 10_000  # of each worker; at it, the worker stops accepting
limit_request_line = 8190  # bytes; 414 past it
limit_request_fields = 100  # 431 past it
limit_request_field_size = 8190  # bytes of each field; 431 past it
max_requests = 100_000  # a worker that has served so many is replaced, against memory that leaks
max_requests_jitter = 10_000  # so that not all are replaced at once

# -- timeouts, in seconds

timeout = 30  # a worker whose loop has been held for so long is killed; also for a body that stalls
graceful_timeout = 30  # from the signal to stop, until what still runs is cut off
keepalive = 75  # an idle connection is kept for so long: longer than the proxy in front does

# -- the proxy in front: whose X-Forwarded-For and X-Forwarded-Proto are believed; a Unix socket's always

forwarded_allow_ips = os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1,::1")

# -- logs, to stdout and stderr, which systemd and containers collect

accesslog = "-"
errorlog = "-"
loglevel = "info"
# The client as the proxy tells it, the request, status, bytes, and microseconds.
access_log_format = '%({x-forwarded-for}i)s "%(r)s" %(s)s %(b)s %(D)s'
# statsd_host = "127.0.0.1:8125"

# -- files

control_socket_disable = True  # of Gunicorn 25.1 and later, in the home of the user: nothing here needs it
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # heartbeats must not wait for a disk
# user = group = "www-data"  # whom workers run as, where the master is started by root

# -- hooks: each is called by Gunicorn, and may be left out


def when_ready(server):
    """In the master, once: it listens."""
    server.log.info("Ready, with %s workers", server.cfg.workers)


def post_fork(server, worker):
    """In each worker, before it loads the application: no event loop runs yet."""
    worker.log.info("Worker %s begins", worker.pid)


def worker_int(worker):
    """In a worker that is told to stop at once (INT or QUIT)."""
    worker.log.info("Worker %s is interrupted", worker.pid)


def worker_abort(worker):
    """In a worker that held its loop for longer than `timeout`; where it hangs is in the log already."""
    worker.log.error("Worker %s hung", worker.pid)


def worker_exit(server, worker):
    """In a worker that has served its last request: flush what is to leave, such as traces."""
    worker.log.info("Worker %s ends", worker.pid)


def child_exit(server, worker):
    """In the master, for each worker that has ended, however it did."""
    server.log.info("Worker %s is gone", worker.pid)


def on_exit(server):
    """In the master, at the very end."""
    server.log.info("Done")
