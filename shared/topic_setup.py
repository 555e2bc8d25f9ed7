"""Do the topics exist as `topics.py` says? SHELL: checked at every start, created only when allowed."""

import asyncio
import time
from collections.abc import Mapping, Sequence

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError, for_code

from shared.errors import SetupError, UnavailableError
from shared.kafka import KAFKA_ERRORS, common_options, start_client, stop_client
from shared.settings import KafkaSettings
from shared.topics import RECORD_BYTES_MAX, Topic

VISIBLE_POLL_S = 0.1
_CREATE_HINT = "create it, or set HEADRACE_KAFKA__CREATE_TOPICS=true"


async def prepare_topics(settings: KafkaSettings, topics: Sequence[Topic]) -> str:
    """Check (and create, when allowed) topics; returns the identity of the log.

    Raises:
        SetupError: a topic is missing or laid out differently.
        UnavailableError: no broker answers.
    """
    options = common_options(settings)
    admin = AIOKafkaAdminClient(
        bootstrap_servers=options["bootstrap_servers"], request_timeout_ms=options["request_timeout_ms"]
    )
    await start_client(admin, settings)
    try:
        missing = await _missing(admin, topics)
        if missing and not settings.create_topics:
            raise SetupError(f"topic {missing[0].name} does not exist: {_CREATE_HINT}")
        await _create(admin, settings, missing)
        await _check_layout(admin, topics)
        cluster = await admin.describe_cluster()
        return settings.log_id or str(cluster["cluster_id"])
    finally:
        await stop_client(admin)


async def _missing(admin: AIOKafkaAdminClient, topics: Sequence[Topic]) -> list[Topic]:
    # All names are listed, because asking for one by name may make a broker create it.
    present = set(await admin.list_topics())
    return [topic for topic in topics if topic.name not in present]


async def _create(admin: AIOKafkaAdminClient, settings: KafkaSettings, topics: Sequence[Topic]) -> None:
    if not topics:
        return
    response = await admin.create_topics(
        [NewTopic(t.name, t.partitions, settings.replication_factor, topic_configs=t.config()) for t in topics]
    )
    # Refusals come back in the response, they are not raised.
    for name, code, *_ in response.topic_errors:
        if code not in (0, TopicAlreadyExistsError.errno):
            raise SetupError(f"topic {name} cannot be created: {for_code(code).__name__}")
    deadline = time.monotonic() + settings.request_timeout_s
    while missing := await _missing(admin, topics):
        if time.monotonic() > deadline:
            raise UnavailableError(f"topic {missing[0].name} was created but does not show up")
        await asyncio.sleep(VISIBLE_POLL_S)


async def _check_layout(admin: AIOKafkaAdminClient, topics: Sequence[Topic]) -> None:
    if not topics:
        return
    described = {d["topic"]: d for d in await admin.describe_topics([t.name for t in topics])}
    for topic in topics:
        found = len(described[topic.name]["partitions"])
        if found != topic.partitions and not topic.is_foreign:
            raise SetupError(
                f"topic {topic.name} has {found} partitions, the settings say {topic.partitions}: "
                "set HEADRACE_KAFKA__*_PARTITIONS to what the topic has, or use another topic prefix"
            )
    configs = await _configs(admin, topics)
    for topic in (topic for topic in topics if not topic.is_foreign):
        _check_config(topic, configs.get(topic.name, {}))


def _check_config(topic: Topic, config: Mapping[str, str]) -> None:
    """Refuse a cleanup policy that loses records, and a record size that the largest line does not fit into."""
    wanted, policy = topic.config()["cleanup.policy"], config.get("cleanup.policy")
    if policy is not None and wanted not in policy:
        raise SetupError(f"topic {topic.name} has cleanup.policy={policy}, it must be {wanted}: alter the topic")
    size = config.get("max.message.bytes")
    if size is not None and int(size) < RECORD_BYTES_MAX:
        raise SetupError(
            f"topic {topic.name} has max.message.bytes={size}, it must be at least {RECORD_BYTES_MAX}: alter the topic"
        )


async def _configs(admin: AIOKafkaAdminClient, topics: Sequence[Topic]) -> dict[str, dict[str, str]]:
    """The settings that are checked, by topic; empty on a broker that has no topic configuration."""
    keys = {"cleanup.policy": "", "max.message.bytes": ""}
    resources = [ConfigResource(ConfigResourceType.TOPIC, t.name, keys) for t in topics]
    try:
        responses = await admin.describe_configs(resources)
    except KAFKA_ERRORS:
        return {}  # the in-memory broker
    return {
        resource[3]: {entry[0]: entry[1] for entry in resource[4] if entry[0] in keys}
        for response in responses
        for resource in response.resources
    }
