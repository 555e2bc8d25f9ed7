"""`headrace recover`: fill an empty log from the object store. SHELL."""

import asyncio
from pathlib import Path

from cli.fill_log import fill_log
from cli.local_kafka import prepare_jvm_broker
from cli.supervisor import Supervisor
from cli.up import assets_folder, cache_folder, choose_kafka, locked, say, start_broker, wait_for_broker
from shared.errors import SetupError
from shared.settings import KafkaSettings, ServiceSettings, StoreSettings, load_settings

STOP_TIMEOUT_S = 30.0


def recover(*, data: Path, kafka: str, store: str) -> int:
    """Start the data folder's own broker when no address is given, fill the log, and stop the broker again."""
    settings = load_settings(ServiceSettings)
    kind = choose_kafka(kafka)
    if kind == "memory":
        raise SetupError("a log in memory is filled by 'headrace up' itself; name a broker with --kafka HOST:PORT")
    store_settings = settings.store.model_copy(update={"url": store})
    if kind != "jvm":
        return _fill(settings.kafka.model_copy(update={"bootstrap": kind, "create_topics": True}), store_settings)
    with locked(data):
        supervisor = Supervisor(data, say, STOP_TIMEOUT_S)
        supervisor.catch_signals()
        try:
            broker = prepare_jvm_broker(data.resolve() / "kafka", cache_folder(), assets_folder())
            kafka_settings = settings.kafka.model_copy(
                update={"bootstrap": start_broker(supervisor, broker), "create_topics": True}
            )
            wait_for_broker(kafka_settings, supervisor)
            return _fill(kafka_settings, store_settings)
        finally:
            supervisor.stop_all()


def _fill(kafka: KafkaSettings, store: StoreSettings) -> int:
    done = asyncio.run(fill_log(kafka, store))
    say(
        f"recovered {done.num_finished} finished and {done.num_unfinished} unfinished batches, {done.num_files} files "
        f"and {done.num_lines} lines that were answered before"
    )
    return 0
