"""A TCP server: answers each line with the same line in capitals."""

import asyncio

from wit_world import exports

PORT = 7000


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line.upper())
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
