"""`headrace doctor`: does everything answer that a batch needs, and what is to be done if not? SHELL."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.api_client import FAILED, ApiClient, CallFailed, api_client
from cli.files import Data, Shown, Url
from cli.keys import installation
from cli.show import Output, show_list
from shared.errors import HeadraceError
from shared.open_store import open_store
from shared.settings import ServiceSettings, load_settings
from shared.topic_setup import prepare_topics
from shared.topics import Topics

CLOCK_SKEW_MAX_S = 2.0
CHECK_TIMEOUT_S = 30.0
COLUMNS = ("check", "ok", "found", "advice")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, and what to do where it is not well."""

    check: str
    ok: bool
    found: str
    advice: str = ""

    def row(self) -> dict[str, Any]:
        """As shown."""
        return {"check": self.check, "ok": self.ok, "found": self.found, "advice": "" if self.ok else self.advice}


def doctor_command(
    url: Url = "",
    data: Data = Path(".headrace"),
    kafka: Annotated[str, typer.Option(help="HOST:PORT; the log of the stack in --data by default.")] = "",
    store: Annotated[str, typer.Option(help="file:///DIR or s3://BUCKET; that of the stack by default.")] = "",
    output: Shown = Output.TABLE,
) -> None:
    """Check broker, topics, store, API, clock, versions and workers; exit code 1 when something is not well."""
    where = installation(data, kafka, store)
    settings = load_settings(ServiceSettings)
    settings = settings.model_copy(
        update={
            "kafka": settings.kafka.model_copy(update={"bootstrap": where.kafka, "create_topics": False}),
            "store": settings.store.model_copy(update={"url": where.store or settings.store.url}),
        }
    )
    with api_client(url, data) as api:
        findings = [*_of_api(api), *asyncio.run(_of_backends(settings))]
    show_list((finding.row() for finding in findings), COLUMNS, output)
    raise typer.Exit(0 if all(finding.ok for finding in findings) else FAILED)


def _of_api(api: ApiClient) -> Iterator[Finding]:
    began = time.time()
    try:
        response = api.call("GET", "/workers")
    except CallFailed as failure:
        yield Finding("api", False, str(failure), "start it with 'headrace up', or name it with --url")
        return
    yield Finding("api", True, f"answers in {(time.time() - began) * 1000:.0f} ms")
    yield clock(response.headers.get("date", ""), (began + time.time()) / 2)
    yield from fleet(response.json()["data"], version("headrace"))
    models = [model["id"] for model in api.json("GET", "/models")["data"]]
    served = {name for worker in response.json()["data"] if worker["alive"] for name in worker["models"]}
    for model in models:
        advice = "start a worker for it: HEADRACE_INFERENCE__MODEL names the model, its log says why it ended"
        yield Finding(f"model {model}", model in served, "served" if model in served else "no live worker", advice)


def clock(date: str, now_s: float) -> Finding:
    """Whether the API's clock is this machine's; an HTTP date has whole seconds."""
    try:
        skew_s = parsedate_to_datetime(date).timestamp() + 0.5 - now_s
    except ValueError:
        return Finding("clock", False, "the API says no date", "look for a proxy that takes headers away")
    advice = "deadlines are Unix times: let NTP set the clocks of all machines"
    return Finding("clock", abs(skew_s) <= CLOCK_SKEW_MAX_S, f"{skew_s:+.1f} s from this machine's", advice)


def fleet(workers: list[dict[str, Any]], own_version: str) -> Iterator[Finding]:
    """What the workers' heartbeats say."""
    alive = [worker for worker in workers if worker["alive"]]
    advice = "a silent worker has died or is cut off from the broker: look at its log and at /readyz"
    silent = [worker["id"] for worker in workers if worker["state"] == "silent"]
    found = f"{len(alive)} alive" + (f", silent: {', '.join(silent)}" if silent else "")
    yield Finding("workers", bool(alive) and not silent, found, advice)
    for worker in (each for each in workers if each["state"] in ("ready", "joining")):
        advice = "a worker that joins waits for its group; an engine that hangs ends its worker after a while"
        yield Finding(f"engine of {worker['id']}", worker["state"] == "ready", engine(worker), advice)
    versions = {worker["version"] for worker in alive} | {own_version}
    found = ", ".join(sorted(versions))
    yield Finding("versions", len(versions) == 1, found, "run one version everywhere but while it is rolled out")


def engine(worker: dict[str, Any]) -> str:
    """What a worker's engine does, as far as it tells."""
    parts = [f"{worker['engine']}, {worker['state']}", f"{worker['in_flight']} lines held"]
    if worker.get("running") is not None:
        parts.append(f"{worker['running']} running, {worker['waiting']} waiting")
    if worker.get("lines_per_second") is not None:
        parts.append(f"{worker['lines_per_second']:.3g} lines/s")
    return ", ".join(parts)


async def _of_backends(settings: ServiceSettings) -> list[Finding]:
    topics = Topics(settings.kafka)

    async def broker() -> str:
        return f"{settings.kafka.bootstrap}, log {await prepare_topics(settings.kafka, [])}"

    async def layout() -> str:
        wanted = topics.all_for(settings.models)
        await prepare_topics(settings.kafka, wanted)
        return f"{len(wanted)} as they should be"

    async def objects() -> str:
        store = await open_store(settings.store)  # tries whether it refuses to overwrite
        try:
            key, began = f"probe/{secrets.token_hex(8)}", time.monotonic()
            await store.create(key, b"1")
            await store.delete(key)
            return f"{settings.store.url}, create-only, {(time.monotonic() - began) * 1000:.0f} ms a write and delete"
        finally:
            await store.close()

    return [
        await _checked("broker", broker, "is it running, and reachable under this address from here?"),
        await _checked(
            "topics", layout, "HEADRACE_KAFKA__CREATE_TOPICS=true creates what is missing at the next start"
        ),
        await _checked("store", objects, "check HEADRACE_STORE__*; it must refuse 'If-None-Match: *' over an object"),
    ]


async def _checked(check: str, look: Callable[[], Awaitable[str]], advice: str) -> Finding:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return Finding(check, True, await look())
    except (TimeoutError, HeadraceError, OSError) as error:
        return Finding(check, False, str(error) or f"no answer in {CHECK_TIMEOUT_S:.0f} s", advice)
