"""Batches straight from Kafka: opened, filled and closed by topic, and in the API like any other."""

import json
import secrets
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from openai import OpenAI

from shared.settings import KafkaSettings
from shared.topics import Topics
from tests.e2e.stack import Stack, chat_line
from tests.e2e.test_intake import Outsider, headers_of, name_of
from tests.providers import Server

OVER = ("completed", "failed", "expired", "cancelled")


@pytest.fixture(scope="module")
def topics() -> Topics:
    return Topics(KafkaSettings(topic_prefix=f"grow-{secrets.token_hex(3)}."))


@pytest.fixture(scope="module")
def stack(kafka: Server, topics: Topics, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    prefix = topics.intake.name.removesuffix("intake")
    env = {
        "HEADRACE_KAFKA__TOPIC_PREFIX": prefix,
        "HEADRACE_CONTRACT__WINDOWS": "free",
        "HEADRACE_INGEST__INTAKE__BELIEVE_TENANT_HEADER": "true",
        "HEADRACE_INGEST__TENANT_LIMITS": json.dumps({"acme": {"open_batches": 0}}),
    }
    address = "memory" if kafka.provider == "memory" else kafka.address
    arguments = ["--engine", "echo", "--model", "echo", "--workers", "2", "--kafka", address]
    with Stack(tmp_path_factory.mktemp("grow"), arguments, env) as running:
        yield running


@pytest.fixture
def outsider(stack: Stack, topics: Topics) -> Outsider:
    return Outsider(stack.stack_file()["kafka"], topics)


def send_lines(outsider: Outsider, name: str, ids: list[str], text: str = "Hi") -> None:
    for custom_id in ids:
        outsider.send(chat_line(custom_id, "echo", f"{text} {custom_id}"), [("batch-id", name)])
    outsider.flush()


def control(outsider: Outsider, kind: str, name: str, **members: Any) -> None:
    outsider.send({"type": kind, "batch_id": name, **members})
    outsider.flush()


def parts_of(client: OpenAI, name: str) -> list[Any]:
    """The parts of a batch by topic, the first one first."""
    found = [b for b in client.batches.list(limit=100) if b.x_headrace["name"] == name]  # type: ignore[attr-defined]
    return sorted(found, key=lambda b: b.x_headrace["part"])


def wait_for(client: OpenAI, name: str, until: Any, timeout_s: float = 60.0) -> list[Any]:
    deadline = time.monotonic() + timeout_s
    while not until(found := parts_of(client, name)):
        assert time.monotonic() < deadline, f"{name}: {[batch.to_dict() for batch in found]}"
        time.sleep(0.1)
    return found


def all_over(num: int = 1) -> Any:
    return lambda found: len(found) == num and all(batch.status in OVER for batch in found)


def lines_of(client: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()] if file_id else []


def test_batch_is_opened_filled_and_closed_by_topic(stack: Stack, outsider: Outsider) -> None:
    client, name, ids = stack.client(), name_of(), [f"c{n}" for n in range(300)]
    control(outsider, "batch-open", name, endpoint="/v1/chat/completions", metadata={"job": "nightly"})
    send_lines(outsider, name, ids[:200])
    [running] = wait_for(client, name, lambda found: found and found[0].request_counts.total == 200)
    assert running.status == "in_progress"
    wait_for(client, name, lambda found: found[0].request_counts.completed == 200)
    url = f"{stack.url}/batches/{running.id}/results"
    so_far = httpx2.get(url, params={"follow": "false"}).text.splitlines()
    assert sorted(json.loads(line)["custom_id"] for line in so_far) == sorted(ids[:200])

    send_lines(outsider, name, ids[100:])
    control(outsider, "batch-close", name, count=300)
    [batch] = wait_for(client, name, all_over())

    assert (batch.status, batch.metadata, batch.endpoint) == ("completed", {"job": "nightly"}, "/v1/chat/completions")
    assert (batch.request_counts.total, batch.request_counts.completed) == (300, 300)
    assert batch.errors is None and batch.error_file_id is None
    output, lines = lines_of(client, batch.output_file_id), lines_of(client, batch.input_file_id)
    assert [line["custom_id"] for line in output] == [line["custom_id"] for line in lines]
    assert sorted(line["custom_id"] for line in output) == sorted(ids)
    assert all(line["error"] is None for line in output)
    assert client.files.retrieve(batch.input_file_id).purpose == "batch"
    told = batch.x_headrace
    assert (told["declared"], told["received"], told["part"]) == (300, 300, 0)


def test_lines_before_the_opening_and_behind_the_end_belong_to_it(stack: Stack, outsider: Outsider) -> None:
    client, name = stack.client(), name_of()
    send_lines(outsider, name, ["early"])
    outsider.send(b"", [("batch-id", name), ("type", "batch-open"), ("ce_type", "x")])
    outsider.send(None, [("batch-id", name), ("ce_type", "com.example.batch-close")])
    send_lines(outsider, name, ["late"])

    [batch] = wait_for(client, name, all_over())
    assert {line["custom_id"] for line in lines_of(client, batch.output_file_id)} == {"early", "late"}
    told = batch.x_headrace
    assert (told["declared"], told["received"]) == (None, 2)


def test_bad_lines_are_error_lines_and_the_others_run(stack: Stack, outsider: Outsider) -> None:
    client, name = stack.client(), name_of()
    control(outsider, "batch-open", name, endpoint="/v1/chat/completions")
    send_lines(outsider, name, ["good"])
    outsider.send(chat_line("unknown", "no-such-model", "x"), [("batch-id", name)])
    outsider.send(chat_line("url", "echo", "x") | {"url": "/v1/embeddings"}, [("batch-id", name)])
    outsider.send({"custom_id": "bare"}, [("batch-id", name)])
    streamed = chat_line("stream", "echo", "x")
    streamed["body"]["stream"] = True
    outsider.send(streamed, [("batch-id", name)])
    control(outsider, "batch-close", name, count=5)

    [batch] = wait_for(client, name, all_over())
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 1, 4)
    codes = {line["custom_id"]: line["error"]["code"] for line in lines_of(client, batch.error_file_id)}
    assert codes == {
        "unknown": "model_not_found",
        "url": "invalid_url",
        "bare": "missing_required_parameter",
        "stream": "streaming_unsupported",
    }


def test_line_that_comes_after_the_end_is_answered_and_a_repeated_one_is_not(stack: Stack, outsider: Outsider) -> None:
    client, name = stack.client(), name_of()
    send_lines(outsider, name, ["a", "b"])
    control(outsider, "batch-close", name, count=2)
    wait_for(client, name, all_over())

    late = name_of()
    send_lines(outsider, name, ["a", late, "b"])
    answer = outsider.answers({late})[late]
    assert json.loads(answer.value())["error"]["code"] == "batch_closed"
    assert headers_of(answer)["error-code"] == "batch_closed"
    assert not [m for m in outsider.all_results() if m.key() in (b"a", b"b")]
    [batch] = parts_of(client, name)
    assert batch.request_counts.total == 2


def test_producer_that_counted_wrong_is_told(stack: Stack, outsider: Outsider) -> None:
    client, name = stack.client(), name_of()
    send_lines(outsider, name, ["a", "b"])
    control(outsider, "batch-close", name, count=1)

    [batch] = wait_for(client, name, all_over())
    assert batch.status == "completed" and batch.request_counts.completed == 2
    assert [(error.code, error.param) for error in batch.errors.data] == [("count_mismatch", "count")]
    assert "1" in batch.errors.data[0].message and "2" in batch.errors.data[0].message


def test_stream_rolls_its_file_by_lines_and_by_time(stack: Stack, outsider: Outsider) -> None:
    client, name, ids = stack.client(), name_of(), [f"c{n}" for n in range(25)]
    control(outsider, "batch-open", name, roll_lines=10, roll_seconds=2, metadata={"k": "v"})
    send_lines(outsider, name, ids)
    parts = wait_for(client, name, all_over(3))

    assert [part.request_counts.total for part in parts] == [10, 10, 5]
    assert [part.x_headrace["part"] for part in parts] == [0, 1, 2]
    assert all(part.metadata == {"k": "v"} and part.status == "completed" for part in parts)
    found = [line["custom_id"] for part in parts for line in lines_of(client, part.output_file_id)]
    assert sorted(found) == sorted(ids)
    send_lines(outsider, name, ["c24", "more"])
    [*_, last] = wait_for(client, name, all_over(4))
    assert [line["custom_id"] for line in lines_of(client, last.output_file_id)] == ["more"]
    control(outsider, "batch-close", name, count=26)
    [*_, last] = wait_for(client, name, lambda found: found[-1].x_headrace["declared"] == 26)
    assert last.errors is None and last.x_headrace["received"] == 26


def test_batch_without_lines_ends_and_one_without_end_ends_at_its_deadline(stack: Stack, outsider: Outsider) -> None:
    client, empty, endless = stack.client(), name_of(), name_of()
    control(outsider, "batch-open", empty)
    control(outsider, "batch-close", empty, count=0)
    control(outsider, "batch-open", endless, completion_window="4s")
    send_lines(outsider, endless, ["a", "b"])

    [batch] = wait_for(client, empty, all_over())
    assert (batch.status, batch.request_counts.total, batch.errors) == ("completed", 0, None)
    [batch] = wait_for(client, endless, all_over())
    assert (batch.status, batch.request_counts.completed) == ("completed", 2)


def test_batch_that_grows_can_be_cancelled(stack: Stack, outsider: Outsider) -> None:
    client, name = stack.client(), name_of()
    control(outsider, "batch-open", name)
    send_lines(outsider, name, ["a", "b", "c"])
    [batch] = wait_for(client, name, lambda found: found and found[0].request_counts.completed == 3)
    client.batches.cancel(batch.id)
    [batch] = wait_for(client, name, all_over())
    assert batch.status in ("cancelled", "completed") and batch.request_counts.completed == 3

    late = name_of()
    send_lines(outsider, name, [late])
    assert json.loads(outsider.answers({late})[late].value())["error"]["code"] == "batch_closed"


def test_tenant_without_room_for_a_batch_is_told(outsider: Outsider) -> None:
    name, line = name_of(), name_of()
    outsider.send({"type": "batch-open", "batch_id": name}, [("tenant", "acme")])
    outsider.send(chat_line(line, "echo", "x"), [("tenant", "acme"), ("batch-id", name)])
    outsider.flush()

    assert json.loads(outsider.answers({line})[line].value())["error"]["code"] == "batch_closed"


def test_bad_opening_is_answered(outsider: Outsider) -> None:
    names = {name_of(): members for members in ({"metadata": 7}, {"endpoint": "/nope"}, {"roll_lines": -1})}
    for name, members in names.items():
        control(outsider, "batch-open", name, **members)
    for answer in outsider.answers(set(names)).values():
        assert json.loads(answer.value())["error"]["message"]


def test_kill_of_ingest_loses_and_doubles_nothing(stack: Stack, outsider: Outsider) -> None:
    client, name, ids = stack.client(), name_of(), [f"c{n}" for n in range(2_000)]
    control(outsider, "batch-open", name)
    for start in range(0, len(ids), 500):
        send_lines(outsider, name, ids[max(0, start - 50) : start + 500])
        stack.kill("ingest-0")
        time.sleep(1.5)
    control(outsider, "batch-close", name, count=len(ids))

    [batch] = wait_for(client, name, all_over(), timeout_s=120)
    assert (batch.status, batch.errors) == ("completed", None)
    found = [line["custom_id"] for line in lines_of(client, batch.output_file_id)]
    assert sorted(found) == sorted(ids)
