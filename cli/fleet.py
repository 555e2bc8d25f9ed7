"""`headrace workers` and `headrace topics`: who works, and how much lies in front of them. SHELL."""

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.api_client import ApiClient, api_client
from cli.files import Data, Shown, Url
from cli.keys import installation
from cli.show import Output, show_list
from shared.group_lag import GroupLag
from shared.settings import KafkaSettings, ServiceSettings, load_settings

WORKER_COLUMNS = (
    "id",
    "state",
    "models",
    "engine",
    "in_flight",
    "window",
    "lines_per_second",
    "kv_cache_usage",
    "partitions",
    "version",
    "started_at",
)
TOPIC_COLUMNS = ("topic", "partitions", "records", "group", "lag")


def workers_command(
    watch: Annotated[bool, typer.Option("--watch", help="Again every second until Ctrl-C.")] = False,
    url: Url = "",
    data: Data = Path(".headrace"),
    output: Shown = Output.TABLE,
) -> None:
    """The workers, as their heartbeats say."""
    with api_client(url, data) as api:
        show_list(_workers(api), WORKER_COLUMNS, output)
        while watch:
            time.sleep(1)
            show_list(_workers(api), WORKER_COLUMNS, output)


def topics_command(
    data: Data = Path(".headrace"),
    kafka: Annotated[str, typer.Option(help="HOST:PORT; the log of the stack in --data by default.")] = "",
    output: Shown = Output.TABLE,
) -> None:
    """The topics, their records, and how far their groups are behind."""
    settings = load_settings(ServiceSettings)
    address = installation(data, kafka, "").kafka
    models = settings.models
    if not kafka:
        with api_client("", data) as api:
            models = tuple(model["id"] for model in api.json("GET", "/models")["data"])
    found = asyncio.run(_rows(settings.kafka.model_copy(update={"bootstrap": address}), models))
    show_list(found, TOPIC_COLUMNS, output)


async def _rows(kafka: KafkaSettings, models: tuple[str, ...]) -> list[dict[str, Any]]:
    lag = GroupLag(kafka, models)
    try:
        found = await lag.measure()
    finally:
        await lag.close()
    return [
        {
            "topic": each.topic.name,
            "partitions": each.topic.partitions,
            "records": each.num_records,
            "group": each.group,
            "lag": each.lag,
        }
        for each in found
    ]


def _workers(api: ApiClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.json("GET", "/workers")["data"]
    return found
