"""How is a log filled from the object store? SHELL: opens both sides for `services.collector.recovery`."""

from services.collector.recovery import Recovered, Recovery
from shared.kafka import make_producer, start_client, stop_client
from shared.log_reader import LogReader
from shared.open_store import open_store
from shared.publisher import Publisher
from shared.settings import KafkaSettings, StoreSettings
from shared.topic_setup import prepare_topics
from shared.topics import Topics


async def fill_log(kafka: KafkaSettings, store_settings: StoreSettings) -> Recovered:
    """Publish what the store has and the log lacks; raises SetupError, UnavailableError."""
    store = await open_store(store_settings)
    topics, producer, reader = Topics(kafka), make_producer(kafka), LogReader(kafka)
    try:
        log_id = await prepare_topics(kafka, topics.all_for(()))
        await start_client(producer, kafka)
        recovery = Recovery(store=store, topics=topics, publisher=Publisher(producer), log_id=log_id)
        return await recovery.run(reader)
    finally:
        await reader.close()
        await stop_client(producer)
        await store.close()
