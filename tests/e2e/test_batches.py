"""The flow of the API through a real stack: two models, three workers, two collectors, the unchanged SDK."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from confluent_kafka import Consumer, TopicPartition
from openai import OpenAI

from shared.settings import KafkaSettings
from shared.topics import Topics
from tests.e2e.stack import (
    Stack,
    assert_each_line_once,
    chat_line,
    chat_lines,
    result_lines,
    submit,
    wait_for_end,
)
from tests.providers import Server

PREFIX = "flow."
MODELS = ("first", "org/Second-Model")


@pytest.fixture(scope="module")
def stack(kafka: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    arguments = ["--engine", "echo", "--workers", "3", "--collectors", "2"]
    arguments += [part for model in MODELS for part in ("--model", model)]
    arguments += ["--kafka", "memory" if kafka.provider == "memory" else kafka.address]
    env = {"HEADRACE_KAFKA__TOPIC_PREFIX": PREFIX}
    with Stack(tmp_path_factory.mktemp("flow"), arguments, env) as started:
        yield started


@pytest.fixture(scope="module")
def client(stack: Stack) -> OpenAI:
    return stack.client()


@pytest.mark.parametrize("model", MODELS)
def test_chat_batch_answers_every_line_in_order(client: OpenAI, model: str) -> None:
    lines = chat_lines(300, model)

    batch = wait_for_end(client, submit(client, lines).id)

    assert batch.status == "completed"
    assert batch.model == model
    assert batch.error_file_id is None
    assert batch.usage.total_tokens > 0
    assert_each_line_once(client, batch, lines)
    output = result_lines(client, batch.output_file_id)
    assert [entry["custom_id"] for entry in output] == [line["custom_id"] for line in lines]
    assert all(entry["error"] is None and entry["response"]["status_code"] == 200 for entry in output)


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/completions", {"prompt": "once upon a time"}),
        ("/v1/embeddings", {"input": ["one", "two"], "dimensions": 8}),
        ("/v1/responses", {"input": "what is a log?"}),
    ],
)
def test_other_endpoints_answer(client: OpenAI, endpoint: str, body: dict[str, object]) -> None:
    line = {"custom_id": "only", "method": "POST", "url": endpoint, "body": {"model": "first"} | body}

    batch = wait_for_end(client, submit(client, [line], endpoint).id)

    assert batch.status == "completed"
    assert_each_line_once(client, batch, [line])


def test_unusual_characters_survive_and_lines_stay_lines(client: OpenAI) -> None:
    text = 'línea\u2028dos\u0085 tres 😀 \\ " \x7f'
    lines = [chat_line('id ü\u2029 "quoted"', "first", text), chat_line("second", "first", "plain")]

    batch = wait_for_end(client, submit(client, lines).id)

    raw = client.files.content(batch.output_file_id).content
    assert raw.isascii()
    assert len(raw.decode().splitlines()) == 2
    output = result_lines(client, batch.output_file_id)
    assert output[0]["custom_id"] == lines[0]["custom_id"]
    assert output[0]["response"]["body"]["choices"][0]["message"]["content"] == text


def test_refused_line_is_an_error_line_and_others_succeed(client: OpenAI) -> None:
    lines = chat_lines(3, "first")
    del lines[1]["body"]["messages"][0]["role"]

    batch = wait_for_end(client, submit(client, lines).id)

    assert batch.status == "completed"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (2, 1)
    assert_each_line_once(client, batch, lines)
    (error,) = result_lines(client, batch.error_file_id)
    assert error["response"]["status_code"] == 400
    assert error["error"] is None
    assert set(error["response"]["body"]["error"]) == {"message", "type", "param", "code"}


def test_batch_whose_lines_are_bad_fails_with_all_of_them(client: OpenAI) -> None:
    good = chat_line("a", "first", "x")
    bad = [
        json.dumps(good),
        "{not json",
        json.dumps(good),
        json.dumps(good | {"custom_id": "c", "url": "/v1/embeddings"}),
    ]
    file = client.files.create(file=("bad.jsonl", "\n".join(bad).encode()), purpose="batch")
    created = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")

    batch = wait_for_end(client, created.id)

    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert [(e.line, e.code) for e in batch.errors.data] == [
        (2, "invalid_json_line"),
        (3, "duplicate_custom_id"),
        (4, "invalid_url"),
    ]
    assert batch.output_file_id is None
    assert batch.error_file_id is None


def test_unknown_model_fails_the_batch(client: OpenAI) -> None:
    batch = wait_for_end(client, submit(client, chat_lines(2, "unheard-of")).id)

    assert batch.status == "failed"
    assert {e.code for e in batch.errors.data} == {"model_not_found"}


def test_empty_file_fails_the_batch(client: OpenAI) -> None:
    file = client.files.create(file=("empty.jsonl", b"\n\n"), purpose="batch")
    created = client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")

    batch = wait_for_end(client, created.id)

    assert [e.code for e in batch.errors.data] == ["empty_file"]


def test_files_are_a_resource(client: OpenAI) -> None:
    content = b'\xef\xbb\xbf{"a": 1}\r\n'
    created = client.files.create(file=("näme.jsonl", content), purpose="batch")

    assert created.status == "processed"
    assert created.bytes == len(content)
    assert client.files.retrieve(created.id).filename == "näme.jsonl"
    assert client.files.content(created.id).content == content
    assert created.id in [file.id for file in client.files.list(purpose="batch")]
    assert client.files.delete(created.id).deleted is True
    with pytest.raises(openai.NotFoundError, match=f"No such File object: {created.id}"):
        client.files.retrieve(created.id)
    with pytest.raises(openai.NotFoundError):
        client.files.delete(created.id)


def test_lists_page_without_gap_or_repeat(client: OpenAI) -> None:
    ids = [submit(client, chat_lines(1, "first")).id for _ in range(5)]

    listed = [batch.id for batch in client.batches.list(limit=2)]

    assert len(listed) == len(set(listed))
    assert set(ids) <= set(listed)
    created = [batch.created_at for batch in client.batches.list(limit=100)]
    assert created == sorted(created, reverse=True)


def test_bad_input_gets_the_envelope_and_never_a_500(stack: Stack, client: OpenAI) -> None:
    import httpx2

    with httpx2.Client(base_url=stack.url) as raw:
        answers = [
            raw.post("/batches", content=b"{not json"),
            raw.post("/batches", json={}),
            raw.post("/batches", json=[1]),
            raw.post("/batches", json={"input_file_id": "file-x", "endpoint": "/v1/nope", "completion_window": "24h"}),
            raw.post("/batches", json={"input_file_id": "f", "endpoint": "/v1/embeddings", "completion_window": "1h"}),
            raw.post("/batches", json={"input_file_id": "f", "endpoint": "/v1/embeddings", "completion_window": "24h"}),
            raw.post("/files", files={"file": ("a.jsonl", b"x")}),
            raw.post("/files", files={"file": ("a.txt", b"x")}, data={"purpose": "batch"}),
            raw.post("/files", content=b"garbage", headers={"content-type": "multipart/form-data; boundary=x"}),
            raw.get("/batches/unknown"),
            raw.get("/batches", params={"limit": "101"}),
            raw.get("/batches", params={"after": "nope"}),
            raw.get("/files", params={"order": "up"}),
            raw.get("/files/..%2F..%2Fetc/content"),
            raw.get("/nowhere"),
            raw.delete("/batches"),
        ]
    for answer in answers:
        assert 400 <= answer.status_code < 500, answer.text
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}, answer.text
        assert answer.headers["x-request-id"].startswith("req_")
    with pytest.raises(openai.ConflictError, match="Cannot cancel a batch with status 'completed'"):
        client.batches.cancel(wait_for_end(client, submit(client, chat_lines(1, "first")).id).id)


def test_models_are_listed(client: OpenAI) -> None:
    assert {model.id for model in client.models.list()} == set(MODELS)
    assert client.models.retrieve("org/Second-Model").id == "org/Second-Model"


def test_one_record_per_line_with_the_original_bytes(stack: Stack, client: OpenAI) -> None:
    raw = [json.dumps(line).encode().replace(b'", "', b'",   "') for line in chat_lines(50, "first")]
    file = client.files.create(file=("in.jsonl", b"\r\n".join(raw) + b"\r\n"), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    wait_for_end(client, batch.id)
    topics = Topics(KafkaSettings(topic_prefix=PREFIX))

    requests = read_topic(stack, topics.requests("first").name, batch.id)
    completions = read_topic(stack, topics.completions.name, batch.id)

    assert sorted(requests) == sorted(raw)
    assert len(completions) == 50


def read_topic(stack: Stack, topic: str, batch_id: str) -> list[bytes]:
    """All values of one batch on a topic, with another Kafka client."""
    options = {"bootstrap.servers": stack.stack_file()["kafka"], "group.id": f"count-{time.time()}"}
    consumer = Consumer(options | {"auto.offset.reset": "earliest", "enable.partition.eof": True})
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    values, at_end = [], 0
    while at_end < len(partitions):
        message = consumer.poll(10)
        assert message is not None
        if message.error():
            at_end += 1
        elif dict(message.headers() or [])["batch"] == batch_id.encode():
            values.append(message.value() or b"")
    consumer.close()
    return values


def test_stack_file_and_pid_files_name_what_runs(stack: Stack) -> None:
    content = stack.stack_file()

    assert content["api"] == stack.url
    assert content["store"].startswith("file:///")
    names = {path.stem for path in (stack.data / "run").glob("*.pid")}
    expected = {"ingest-0", "collector-0", "collector-1", "inference-0", "inference-1", "inference-2"}
    assert expected <= names
    assert all(Path(f"/proc/{(stack.data / 'run' / f'{name}.pid').read_text().strip()}").exists() for name in expected)
