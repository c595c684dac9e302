"""A web server: greets each visitor, and appends a line per request to the file ACCESS_LOG."""

import asyncio
import os

from wit_world import exports

# The environment is read in functions: this part of the file runs when the component is built.
PORT = 8080


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        request = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:  # A probe that only connects.
        writer.close()
        return
    if path := os.environ.get("ACCESS_LOG"):
        with open(path, "a") as log:
            log.write(request.split(b"\r\n")[0].decode("ascii", "replace") + "\n")
    body = f"hello from {os.environ.get('HOSTNAME', 'a guest')}\n".encode()
    writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()
    writer.close()


async def serve() -> None:
    server = await asyncio.start_server(answer, "0.0.0.0", PORT)
    print("listening on port", PORT, flush=True)
    async with server:
        await server.serve_forever()


class Run(exports.Run):
    def run(self) -> None:
        asyncio.run(serve())
