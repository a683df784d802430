"""What the ``tls`` extension of ASGI tells of a connection."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from uvicorn_worker.interfaces.scope import tls_extension


def certificate(directory: Path, name: str, subject: str) -> tuple[str, str]:
    """A certificate that signs itself, and its key, as files."""
    certfile, keyfile = str(directory / f"{name}.pem"), str(directory / f"{name}.key")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2".split()
    subprocess.run(
        [*command, "-utf8", "-subj", subject, "-addext", "subjectAltName=DNS:localhost", "-keyout", keyfile]
        + ["-out", certfile],
        check=True,
        capture_output=True,
    )
    return certfile, keyfile


SUBJECT = "/C=DE/O=Acme, Inc./CN=J\xfcrgen \\+ Co"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    directory = tmp_path_factory.mktemp("certificates")
    return {
        "server": certificate(directory, "server", "/CN=localhost"),
        "client": certificate(directory, "client", SUBJECT),
    }


def connect(
    files: dict[str, tuple[str, str]], version: ssl.TLSVersion, *, with_client: bool, verify: bool
) -> ssl.SSLObject:
    """The server's side of a connection whose handshake is done."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(*files["server"])
    if verify:
        server_context.verify_mode = ssl.CERT_OPTIONAL
        server_context.load_verify_locations(files["client"][0])
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.load_verify_locations(files["server"][0])
    client_context.minimum_version = client_context.maximum_version = version
    if with_client:
        client_context.load_cert_chain(*files["client"])
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, server_hostname="localhost")
    for _ in range(5):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert server.version() is not None
    return server


@pytest.mark.parametrize(
    ("version", "number"), [(ssl.TLSVersion.TLSv1_2, 0x0303), (ssl.TLSVersion.TLSv1_3, 0x0304)]
)
def test_a_connection_without_a_certificate_of_its_client(
    files: dict[str, tuple[str, str]], version: ssl.TLSVersion, number: int
) -> None:
    connection = connect(files, version, with_client=False, verify=True)
    extension = tls_extension(connection)
    suite = extension.pop("cipher_suite")
    assert extension == {
        "server_cert": None,
        "client_cert_chain": [],
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": number,
    }
    [name] = [cipher["name"] for cipher in connection.context.get_ciphers() if cipher["id"] & 0xFFFF == suite]
    negotiated = connection.cipher()
    assert negotiated is not None
    assert name == negotiated[0]


def test_the_number_of_a_cipher_suite_is_that_of_the_registry(files: dict[str, tuple[str, str]]) -> None:
    connection = connect(files, ssl.TLSVersion.TLSv1_3, with_client=False, verify=False)
    registry = {"TLS_AES_128_GCM_SHA256": 0x1301, "TLS_AES_256_GCM_SHA384": 0x1302}
    registry["TLS_CHACHA20_POLY1305_SHA256"] = 0x1303
    negotiated = connection.cipher()
    assert negotiated is not None
    assert tls_extension(connection)["cipher_suite"] == registry[negotiated[0]]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_certificate_of_the_client_is_told_with_its_name(
    files: dict[str, tuple[str, str]], version: ssl.TLSVersion
) -> None:
    extension = tls_extension(connect(files, version, with_client=True, verify=True))
    [pem] = extension["client_cert_chain"]
    assert pem == ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(Path(files["client"][0]).read_text()))
    assert extension["client_cert_name"] == "CN=J\xfcrgen \\+ Co,O=Acme\\, Inc.,C=DE"
    assert extension["client_cert_error"] is None
