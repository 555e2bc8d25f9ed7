"""`headrace workers` and `headrace topics`: who works, and how much lies in front of them. SHELL."""

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from aiokafka import TopicPartition

from cli.api_client import ApiClient, api_client
from cli.files import Data, Shown, Url
from cli.keys import installation
from cli.show import Output, show_list
from shared.group_offsets import GroupOffsets
from shared.log_ends import LogEnds
from shared.settings import KafkaSettings, ServiceSettings, load_settings
from shared.topics import Topic, Topics

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
    found = asyncio.run(measure(settings.kafka.model_copy(update={"bootstrap": address}), models))
    show_list(found, TOPIC_COLUMNS, output)


async def measure(kafka: KafkaSettings, models: tuple[str, ...]) -> list[dict[str, Any]]:
    """Every topic of an installation that serves these models; raises UnavailableError."""
    topics, groups = Topics(kafka), GroupOffsets(kafka)
    layout = topics.all_for(models)
    ends = LogEnds(kafka, [tp for topic in layout for tp in _partitions(topic)])
    await ends.open()
    try:
        begins, now = await ends.begin(), await ends.now()
        return [await _row(topic, _group_of(topics, topic, models), begins, now, groups) for topic in layout]
    finally:
        await ends.close()
        await groups.close()


async def _row(
    topic: Topic,
    group: str,
    begins: Any,
    ends: Any,
    groups: GroupOffsets,
) -> dict[str, Any]:
    partitions = _partitions(topic)
    committed = await groups.committed(group, partitions) if group else {}
    behind = [ends[tp] - (committed[tp].offset if tp in committed else begins[tp]) for tp in partitions]
    return {
        "topic": topic.name,
        "partitions": topic.partitions,
        "records": sum(ends[tp] - begins[tp] for tp in partitions),
        "group": group or None,
        "lag": sum(max(0, lag) for lag in behind) if group else None,
    }


def _group_of(topics: Topics, topic: Topic, models: tuple[str, ...]) -> str:
    """Who reads a topic as a group that commits."""
    from_outside = (topics.intake.name, topics.admitted.name, topics.batch_events.name)
    if topic.name in from_outside:
        return topics.intake.name.removesuffix("intake") + "admission"
    requests = [topics.requests(model, name).name for model in models for name in ("interactive", "batch")]
    return topic.name if topic.name in requests else ""


def _partitions(topic: Topic) -> list[TopicPartition]:
    return [TopicPartition(topic.name, number) for number in range(topic.partitions)]


def _workers(api: ApiClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.json("GET", "/workers")["data"]
    return found
