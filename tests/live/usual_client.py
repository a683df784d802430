"""A client as there are many, in a process of its own: asks so many times, and says how long it waited at worst.

``python usual_client.py HOST PORT COUNT`` prints the 99th percentile in seconds; an answer that is not the one of
``/quiet``, or none, is an error.
"""

import socket
import sys
import time


def main(host: str, port: str, count: str) -> None:
    connection = socket.create_connection((host, int(port)), 15)
    answers = connection.makefile("rb")
    waits = []
    for _ in range(int(count)):
        began = time.monotonic()
        connection.sendall(b"GET /quiet HTTP/1.1\r\nHost: a\r\n\r\n")
        status, *_ = iter(answers.readline, b"\r\n")
        if status != b"HTTP/1.1 200 OK\r\n" or answers.read(4) != b"fine":
            raise SystemExit(f"no answer, but {status!r}")
        waits.append(time.monotonic() - began)
    print(sorted(waits)[len(waits) * 99 // 100])


if __name__ == "__main__":
    main(*sys.argv[1:])
