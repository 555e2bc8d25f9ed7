"""Send requests straight to Kafka and read their answers, with aiokafka.

python examples/intake/with_aiokafka.py localhost:9092 MODEL
"""

import asyncio
import json
import os
import sys
import uuid

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

INTAKE = os.environ.get("INTAKE_TOPIC", "headrace.intake")
RESULTS = os.environ.get("RESULTS_TOPIC", "headrace.results")


def request(model: str, text: str) -> tuple[str, bytes]:
    """An id of ours, and one line as in an OpenAI batch file."""
    name = str(uuid.uuid4())
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    line = {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return name, json.dumps(line).encode()


async def main(bootstrap: str, model: str) -> None:
    async with (
        AIOKafkaConsumer(RESULTS, bootstrap_servers=bootstrap) as results,
        AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer,
    ):
        await results.seek_to_end()  # before anything is sent, so that no answer is missed
        waiting = dict(request(model, f"What is {number} squared?") for number in range(10))
        for value in waiting.values():
            await producer.send_and_wait(INTAKE, value)
        async with asyncio.timeout(120):
            while waiting:
                answer = await results.getone()
                # At least once: an answer may come again, and others' answers are here too.
                if waiting.pop(answer.key.decode(), None) is not None:
                    print(json.loads(answer.value))


asyncio.run(main(sys.argv[1], sys.argv[2]))
