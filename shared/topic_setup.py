"""Do the topics exist as `topics.py` says? SHELL: checked at every start, created only when allowed."""

import asyncio
import time
from collections.abc import Sequence

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError, for_code

from shared.errors import SetupError, UnavailableError
from shared.kafka import KAFKA_ERRORS, common_options, start_client, stop_client
from shared.settings import KafkaSettings
from shared.topics import Topic

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
        if found != topic.partitions:
            raise SetupError(
                f"topic {topic.name} has {found} partitions, the settings say {topic.partitions}: "
                "set HEADRACE_KAFKA__*_PARTITIONS to what the topic has, or use another topic prefix"
            )
    for name, policy in (await _cleanup_policies(admin, topics)).items():
        wanted = next("compact" if t.compacted else "delete" for t in topics if t.name == name)
        if wanted not in policy:
            raise SetupError(f"topic {name} has cleanup.policy={policy}, it must be {wanted}: alter the topic")


async def _cleanup_policies(admin: AIOKafkaAdminClient, topics: Sequence[Topic]) -> dict[str, str]:
    resources = [ConfigResource(ConfigResourceType.TOPIC, t.name, {"cleanup.policy": ""}) for t in topics]
    try:
        responses = await admin.describe_configs(resources)
    except KAFKA_ERRORS:
        return {}  # the in-memory broker of the tests has no topic configuration
    found: dict[str, str] = {}
    for response in responses:
        for resource in response.resources:
            name, entries = resource[3], resource[4]
            policies = [entry[1] for entry in entries if entry[0] == "cleanup.policy"]
            if policies:
                found[name] = policies[0]
    return found
