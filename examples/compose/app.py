"""A web server that counts its visitors in the database `db`."""

import asyncio
import os
import socket

from wit_world import exports

PORT = 8080


async def increment(key: str) -> int:
    # asyncio resolves names on a thread, and WASI has no threads: the name is resolved here. It is
    # passed as bytes because the component has no codec for international names.
    # The environment is read here: the code outside of functions runs when the component is built.
    database = os.environ.get("DATABASE", "db")
    address = socket.getaddrinfo(database.encode(), 6379, type=socket.SOCK_STREAM)[0][4]
    reader, writer = await asyncio.open_connection(address[0], address[1])
    writer.write(f"INCR {key}\r\n".encode())
    reply = await reader.readline()
    writer.close()
    return int(reply.removeprefix(b":"))


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    body = f"visitor {await increment('visitors')}\n".encode()
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
