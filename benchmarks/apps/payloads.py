"""What the applications send."""

import json

HELLO = b"Hello, World! 20 b.\n"

#: JSON of 10 KiB.
DOCUMENT = json.dumps({"items": [{"number": number, "name": f"item {number}"} for number in range(1000)]}).encode()
DOCUMENT = DOCUMENT[: 10 * 1024 - 3].rpartition(b", {")[0] + b"]}"
DOCUMENT += b" " * (10 * 1024 - len(DOCUMENT))

DOWNLOAD = bytes(range(256)) * 4096

#: A streamed response is this, so many times.
CHUNK = b"a chunk of a response, 64 bytes long with its end of the line.\r\n"
CHUNKS = 100
