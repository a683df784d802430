"""The files of examples/deployment, as far as they can be tried without being root on a machine of their own.

docs/deployment.rst says what was tried on one.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import yaml

from .client import DEADLINE, Wire, request, websocket
from .harness import Log, Serve, Server, eventually, spawn

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = EXAMPLES / "deployment"
PRODUCTION = EXAMPLES / "production"

NGINX = shutil.which("nginx", path=os.environ["PATH"] + os.pathsep + "/usr/sbin")


def unit(name: str) -> ConfigParser:
    """A unit of systemd; of what it has several times, as commands, the last."""
    parser = ConfigParser(strict=False, interpolation=None)
    parser.read_string((FILES / name).read_text())
    return parser


def copy_production(folder: Path) -> None:
    for file in ("app.py", "gunicorn.conf.py"):
        shutil.copy(PRODUCTION / file, folder)


def setting(name: str) -> str:
    """What the configuration for production says."""
    found = re.search(rf"^{name} = (\S+)", (PRODUCTION / "gunicorn.conf.py").read_text(), re.MULTILINE)
    assert found
    return found[1]


# -- systemd

#: A process that systemd has started: with the socket as descriptor 3, and told so by its own pid.
ACTIVATED = """\
import os
import sys

os.dup2(int(os.environ["LISTENER"]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "gunicorn", *sys.argv[1:]])
"""


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd listens at, whoever comes and goes."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "app.sock"))
        listener.listen()
        yield listener


def activate(folder: Path, listener: socket.socket, **env: str) -> Server:
    """The configuration for production, started as systemd would; `bind`, which the harness sets, is not heeded."""
    conf = (PRODUCTION / "gunicorn.conf.py").read_text()
    env |= {"LISTENER": str(listener.fileno())}
    started = {"command": ("-c", ACTIVATED), "env": env, "pass_fds": (listener.fileno(),)}
    return Server("app:production", folder=folder, conf=conf, cwd=PRODUCTION, **started)


def test_what_connects_while_a_service_with_systemds_socket_restarts_is_answered(
    tmp_path: Path, listener: socket.socket
) -> None:
    path = listener.getsockname()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd, activate(tmp_path, listener) as first:
        assert f"Listening at: unix:{path} " in first.log
        with Wire(path) as wire:
            assert wire.ask("/").body == b"Hello\n"
        first.signal(signal.SIGTERM)
        assert first.wait() == 0
        with Wire(path) as waiting:
            waiting.send(request("/"))
            systemd.bind(str(tmp_path / "notify"))
            systemd.settimeout(DEADLINE)
            with activate(tmp_path, listener, NOTIFY_SOCKET=str(tmp_path / "notify")):
                assert waiting.reply().body == b"Hello\n"
                assert b"READY=1" in systemd.recv(1024)
    assert Path(path).is_socket()


def test_the_units_agree_with_each_other_and_the_configuration() -> None:
    service, listens = unit("app.service"), unit("app.socket")
    assert service["Unit"]["Requires"] == "app.socket"
    assert service["Service"]["Type"] == "notify"
    # As above, without arguments: the configuration beside the application says what is served.
    assert service["Service"]["ExecStart"] == service["Service"]["WorkingDirectory"] + "/.venv/bin/gunicorn"
    assert int(service["Service"]["TimeoutStopSec"]) > int(setting("graceful_timeout"))
    # With a limit, systemd gives up the socket together with the service that could not be started.
    assert service["Unit"]["StartLimitIntervalSec"] == "0"
    assert f"server unix:{listens['Socket']['ListenStream']} " in (FILES / "nginx.conf").read_text()


def test_a_reload_asks_first_whether_the_application_can_be_loaded(tmp_path: Path) -> None:
    check, tell = map(shlex.split, re.findall(r"^ExecReload=(.+)$", (FILES / "app.service").read_text(), re.MULTILINE))
    assert check[0] == unit("app.service")["Service"]["WorkingDirectory"] + "/.venv/bin/python"
    assert tell == ["/bin/kill", "-s", "HUP", "$MAINPID"]
    copy_production(tmp_path)

    def ask() -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, *check[1:]]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert ask().returncode == 0
    with (tmp_path / "app.py").open("a") as file:
        file.write("import nothing_of_the_kind\n")
    refused = ask()
    assert refused.returncode != 0
    assert "No module named 'nothing_of_the_kind'" in refused.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_no_fault_with_the_units(tmp_path: Path) -> None:
    for name in ("app.service", "app.socket"):
        text = (FILES / name).read_text()
        (tmp_path / name).write_text(re.sub(r"/srv/app/\.venv/bin/\w+", "/bin/true", text))
    command = ["systemd-analyze", "verify", str(tmp_path / "app.service"), str(tmp_path / "app.socket")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


# -- nginx

#: What the file is a part of. The user is heeded where root runs it, as the directory of the test is root's then.
AROUND = """\
user root;
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {conf}
}}
"""


def nginx_at(address: str, folder: Path, *sites: str) -> list[str]:
    """The command of an nginx with the file as it stands but for where it listens, in front of `app.sock`."""
    assert NGINX
    conf = (FILES / "nginx.conf").read_text().replace("listen 80 ", f"listen {address} ")
    conf = conf.replace("unix:/run/app.sock", f"unix:{folder}/app.sock")
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder, conf="\n".join([conf, *sites])))
    return [NGINX, "-e", "stderr", "-p", str(folder), "-c", "nginx.conf"]


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[str]:
    """The address of an nginx that runs."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = "{}:{}".format(*free.getsockname())
    process = subprocess.Popen(nginx_at(address, tmp_path), start_new_session=True)
    try:
        eventually(lambda: process.poll() is not None or (tmp_path / "nginx.pid").exists())
        yield address
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.skipif(NGINX is None, reason="needs nginx")
def test_requests_and_websockets_come_through_nginx_and_tell_of_their_client(
    tmp_path: Path, serve: Serve, nginx: str
) -> None:
    serve("websocket_apps:app", bind=f"unix:{tmp_path}/app.sock")
    host, port = nginx.split(":")
    with Wire((host, int(port))) as wire:
        assert wire.ask("/hello").status == 200
        assert wire.ask("/hello").status == 200
    with websocket(f"ws://{nginx}/what", additional_headers={"X-Forwarded-For": "192.0.2.1"}) as client:
        message = json.loads(client.recv())
    assert message["client"] == ["127.0.0.1", 0]
    assert message["scheme"] == "ws"


@pytest.mark.skipif(NGINX is None, reason="needs nginx")
def test_nginx_refuses_another_default_site_that_would_get_the_requests(tmp_path: Path) -> None:
    other = "server { listen 127.0.0.1:80 default_server; }"
    command = [*nginx_at("127.0.0.1:80", tmp_path, other), "-t"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "a duplicate default server for 127.0.0.1:80" in done.stderr


# -- containers


def instructions() -> dict[str, str]:
    """Those of the Containerfile, the last of each name."""
    lines = re.findall(r"^([A-Z]+) (.+)$", (FILES / "Containerfile").read_text(), re.MULTILINE)
    return dict(lines)


def manifests() -> dict[str, Any]:
    """The objects of kubernetes.yaml, by their kinds."""
    return {each["kind"]: each for each in yaml.safe_load_all((FILES / "kubernetes.yaml").read_text())}


def test_the_command_of_the_container_serves_at_the_port_that_it_tells_and_stops_at_term(tmp_path: Path) -> None:
    command = yaml.safe_load(instructions()["CMD"])
    assert command == ["gunicorn", "--bind", f"0.0.0.0:{instructions()['EXPOSE']}"]
    copy_production(tmp_path)
    log = Log()
    process = spawn(["-m", "gunicorn", "--bind", "127.0.0.1:0"], log, cwd=tmp_path, env={"WEB_CONCURRENCY": "1"})
    try:
        port = int(log.wait_for(r"Listening at: http://127\.0\.0\.1:(\d+)")[1])
        with Wire(("127.0.0.1", port)) as wire:
            assert wire.ask("/").body == b"Hello\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


#: A wheel with as little as pip takes.
WHEEL = {
    "hello.py": "",
    "hello-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: hello\nVersion: 1.0\n",
    "hello-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "hello-1.0.dist-info/RECORD": "",
}


def test_a_wheel_that_the_requirements_name_is_in_the_image_when_they_are_installed(tmp_path: Path) -> None:
    context, image, installed = (tmp_path / name for name in ("context", "image", "installed"))
    context.mkdir()
    image.mkdir()
    (context / "requirements.txt").write_text("./hello-1.0-py3-none-any.whl\n")
    with ZipFile(context / "hello-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in WHEEL.items():
            wheel.writestr(name, text)
    steps = re.search(r"^COPY (.+) \./\nRUN pip (.+)$", (FILES / "Containerfile").read_text(), re.MULTILINE)
    assert steps
    for pattern in steps[1].split():
        for path in context.glob(pattern):
            shutil.copy(path, image)
    command = [sys.executable, "-m", "pip", *steps[2].split(), "--no-index", "--target", str(installed)]
    done = subprocess.run(command, cwd=image, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (installed / "hello.py").exists()


def test_docker_is_told_to_wait_for_longer_than_requests_may_take() -> None:
    seconds = re.findall(r"--stop-timeout (\d+)", (FILES / "Containerfile").read_text())
    assert [int(each) > int(setting("graceful_timeout")) for each in seconds] == [True]


def test_kubernetes_asks_and_stops_the_container_as_it_is_served(serve: Serve) -> None:
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert [str(port["containerPort"]) for port in container["ports"]] == [instructions()["EXPOSE"]]
    _, pause = container["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] > int(pause) + int(setting("graceful_timeout"))
    server = serve("app:production", cwd=PRODUCTION)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server.ask(container[probe]["httpGet"]["path"]).status == 204


def test_the_service_of_kubernetes_finds_the_pods() -> None:
    template, service = manifests()["Deployment"]["spec"]["template"], manifests()["Service"]["spec"]
    assert service["selector"] == template["metadata"]["labels"]
    (port,) = service["ports"]
    assert port["targetPort"] in [each["name"] for each in template["spec"]["containers"][0]["ports"]]
