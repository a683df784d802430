"""Where connections come in."""

import socket
from pathlib import Path

import pytest

from uvicorn_worker.accept import common_address


def test_all_connections_of_a_listener_on_one_address_have_that() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert common_address(listener) == listener.getsockname()


def test_all_connections_of_a_unix_socket_have_its_path_and_no_port(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        assert common_address(listener) == (path, None)


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")])
def test_each_connection_of_a_listener_on_all_addresses_has_its_own(family: int, address: str) -> None:
    with socket.socket(family) as listener:
        listener.bind((address, 0))  # It never listens.
        assert common_address(listener) is None
