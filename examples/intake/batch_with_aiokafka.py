"""Make a batch straight in Kafka and look at it with the OpenAI SDK, with aiokafka.

python examples/intake/batch_with_aiokafka.py localhost:9092 MODEL http://127.0.0.1:8000/v1
"""

import asyncio
import json
import os
import sys
import uuid

from aiokafka import AIOKafkaProducer
from openai import AsyncOpenAI

INTAKE = os.environ.get("INTAKE_TOPIC", "headrace.intake")
OVER = ("completed", "failed", "expired", "cancelled")


def line(model: str, number: int) -> bytes:
    """One line as in an OpenAI batch file."""
    body = {"model": model, "messages": [{"role": "user", "content": f"What is {number} squared?"}]}
    members = {"custom_id": f"square-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(members).encode()


async def main(bootstrap: str, model: str, url: str) -> None:
    name = f"squares-{uuid.uuid4()}"
    headers = [("batch-id", name.encode())]
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        opening = {"type": "batch-open", "endpoint": "/v1/chat/completions", "metadata": {"job": "squares"}}
        await producer.send_and_wait(INTAKE, json.dumps(opening).encode(), name.encode(), headers=headers)
        for number in range(10):
            await producer.send_and_wait(INTAKE, line(model, number), name.encode(), headers=headers)
        closing = {"type": "batch-close", "count": 10}
        await producer.send_and_wait(INTAKE, json.dumps(closing).encode(), name.encode(), headers=headers)
    client = AsyncOpenAI(base_url=url, api_key="unused")
    async with asyncio.timeout(120):
        while True:
            batches = [b async for b in await client.batches.list() if name in str(b.to_dict()["x_headrace"])]
            if batches and batches[0].status in OVER:
                break
            await asyncio.sleep(0.2)
    print((await client.files.content(batches[0].output_file_id or "")).text, end="")


asyncio.run(main(*sys.argv[1:4]))
