"""A TCP proxy that misbehaves on demand. Runs on a thread and loop of its own."""

import asyncio
import contextlib
import threading

from cli.local_kafka import free_port

CHUNK_BYTES = 64 * 1024
# What the proxy can do to its connections.
MODES = ("pass", "cut", "delay", "half_open", "drop_answers")
DELAY_S = 0.3


class Proxy:
    """Forwards 127.0.0.1:`port` to a target.

    cut: connections are closed, new ones too. delay: each chunk waits. half_open: nothing is forwarded, nothing is
    closed. drop_answers: requests arrive, answers are swallowed.
    """

    def __init__(self, port: int = 0) -> None:
        self.port = port or free_port()
        self.target_port = 0
        self._mode = "pass"
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()
        self._started.wait(10)

    def set_mode(self, mode: str) -> None:
        """Change what happens to every connection from now on."""
        assert mode in MODES
        self._mode = mode
        if mode in ("cut", "pass"):  # connections that were swallowed from cannot be mended
            self._loop.call_soon_threadsafe(self._cut)

    def close(self) -> None:
        """Stop listening and close everything."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self.port))
        self._started.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        """Close every connection, and give the loop the turns that this takes."""
        self._cut()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.1)

    def _cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode == "cut":
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, up_writer}
        try:
            await asyncio.gather(
                self._pump(reader, up_writer, answers=False), self._pump(up_reader, writer, answers=True)
            )
        except asyncio.CancelledError:
            return  # the proxy ends; the stream server would print a cancelled handler as an error
        finally:
            for end in (writer, up_writer):
                self._writers.discard(end)
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                if self._mode == "delay":
                    await asyncio.sleep(DELAY_S)
                if self._mode == "half_open" or (self._mode == "drop_answers" and answers):
                    continue
                writer.write(chunk)
                await writer.drain()
            writer.transport.abort()
