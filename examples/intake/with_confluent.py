"""Send requests straight to Kafka and read their answers, with confluent-kafka.

python examples/intake/with_confluent.py localhost:9092 MODEL
"""

import json
import os
import sys
import time
import uuid

from confluent_kafka import Consumer, Producer, TopicPartition

INTAKE = os.environ.get("INTAKE_TOPIC", "headrace.intake")
RESULTS = os.environ.get("RESULTS_TOPIC", "headrace.results")


def request(model: str, text: str) -> bytes:
    """One line as in an OpenAI batch file; the id that answers carry is in a header here."""
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    line = {"custom_id": "my-own", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line).encode()


def main(bootstrap: str, model: str) -> None:
    results = Consumer({"bootstrap.servers": bootstrap, "group.id": f"reader-{uuid.uuid4()}"})
    numbers = results.list_topics(RESULTS, timeout=30).topics[RESULTS].partitions
    # Where the topic ends before anything is sent, so that no answer is missed.
    ends = {number: results.get_watermark_offsets(TopicPartition(RESULTS, number))[1] for number in numbers}
    results.assign([TopicPartition(RESULTS, number, end) for number, end in ends.items()])
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    waiting = {str(uuid.uuid4()) for _ in range(10)}
    for name in waiting:
        producer.produce(INTAKE, request(model, "What is Kafka?"), headers={"request-id": name})
    assert producer.flush(30) == 0, "not all requests were acknowledged"
    deadline = time.monotonic() + 120
    while waiting and time.monotonic() < deadline:
        answer = results.poll(1.0)
        if answer is not None and answer.error() is None and (name := (answer.key() or b"").decode()) in waiting:
            waiting.discard(name)  # at least once: an answer may come again
            print(name, json.loads(answer.value() or b"")["response"]["body"])
    results.close()
    sys.exit(f"{len(waiting)} requests have no answer" if waiting else 0)


main(sys.argv[1], sys.argv[2])
