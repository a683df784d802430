"""Upgrades to lines, sends what is typed, and prints what comes back."""

import socket
import sys

HOST, PORT = "127.0.0.1", 8000
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: lines\r\n\r\n"

with socket.create_connection((HOST, PORT)) as connection, connection.makefile("rwb", buffering=0) as stream:
    stream.write(REQUEST)
    print(stream.readline().decode().rstrip())
    while stream.readline() != b"\r\n":  # the fields of the answer
        pass
    for line in sys.stdin:
        stream.write(line.encode())
        print(stream.readline().decode(), end="")
