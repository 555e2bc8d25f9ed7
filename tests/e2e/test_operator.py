"""What an operator sees of a running stack: workers, metrics, live events, and the command line."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import jsonschema_rs
import pytest
from prometheus_client.parser import text_string_to_metric_families

from shared import metric_names
from shared.metric_names import METRICS
from tests.e2e.stack import Stack, chat_line, chat_lines, submit, wait_for_end
from tests.providers import Server

SILENCE_S = 3.0


@pytest.fixture(scope="module")
def stack(kafka: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    env = {
        "HEADRACE_INGEST__WORKER_SILENCE_S": str(SILENCE_S),
        "HEADRACE_INFERENCE__HEARTBEAT_S": "1",
        "HEADRACE_INFERENCE__ECHO__LATENCY_S": "0.02",
    }
    address = "memory" if kafka.provider == "memory" else kafka.address
    env["HEADRACE_KAFKA__TOPIC_PREFIX"] = f"operator-{os.getpid()}."
    arguments = ["--engine", "echo", "--model", "echo", "--kafka", address]
    with Stack(tmp_path_factory.mktemp("operator"), arguments, env) as running:
        yield running


def headrace(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | stack.env | {"HEADRACE_DATA": str(stack.data)}
    command = [sys.executable, "-m", "cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env)


def samples(stack: Stack) -> dict[str, float]:
    """Sums of all series by name, over all processes."""
    found: dict[str, float] = {}
    for page in stack.stack_file()["metrics"].values():
        for family in text_string_to_metric_families(httpx2.get(page).text):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def test_every_process_shows_its_metrics_and_they_add_up(stack: Stack) -> None:
    client, before = stack.client(), samples(stack)
    lines = [*chat_lines(30, "echo"), chat_line("bad", "echo", "x") | {"body": {"model": "echo", "messages": 7}}]
    batch = wait_for_end(client, submit(client, lines).id)
    assert batch.request_counts is not None
    time.sleep(1)  # what is counted after its answer
    after = samples(stack)

    def grew(metric: metric_names.Metric) -> float:
        name = metric.prometheus_names[-1]
        return after.get(name, 0.0) - before.get(name, 0.0)

    finished = (metric_names.LINES_DISPATCHED, metric_names.LINES_FINISHED, metric_names.LINES_COLLECTED)
    assert [grew(metric) for metric in finished] == [31, 31, 31]
    assert grew(metric_names.BATCHES_CLOSED) == 1
    assert grew(metric_names.BATCH_DURATION) == 1
    per_line = (metric_names.SERVER_DURATION, metric_names.LINE_QUEUE_WAIT, metric_names.PROCESS_DURATION)
    assert [grew(metric) for metric in per_line] == [31, 31, 31]
    assert grew(metric_names.SEND_DURATION) > 0
    assert grew(metric_names.OUTPUT_TOKENS) == batch.usage.output_tokens if batch.usage else True
    assert grew(metric_names.FILE_BYTES) > 31 * 50
    assert grew(metric_names.SEGMENT_BYTES) > 31 * 50
    assert {"http_server_request_duration_seconds_count", "headrace_group_lag"} <= set(after)
    listed = {name for metric in METRICS for name in metric.prometheus_names}
    ours = {name for name in after if name.startswith(("headrace_", "gen_ai_", "messaging_"))}
    assert {name for name in ours if not name.endswith("_created")} <= listed


def test_workers_say_what_they_do_and_a_batch_that_waits_for_one_says_so(stack: Stack) -> None:
    url, client = stack.url, stack.client()
    [worker] = httpx2.get(f"{url}/workers").json()["data"]
    assert (worker["state"], worker["alive"], worker["models"], worker["engine"]) == ("ready", True, ["echo"], "echo")
    assert worker["partitions"] and worker["window"] > 0 and worker["version"]

    stack.pause("inference-0")
    try:
        batch = submit(client, chat_lines(3, "echo"))
        deadline = time.monotonic() + SILENCE_S * 5
        while not (warning := httpx2.get(f"{url}/batches/{batch.id}").headers.get("x-headrace-warning")):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert "echo" in warning
        assert httpx2.get(f"{url}/batches/{batch.id}").json()["x_headrace"]["without_workers"] == ["echo"]
        [worker] = httpx2.get(f"{url}/workers").json()["data"]
        assert (worker["state"], worker["alive"]) == ("silent", False)
        assert httpx2.get(f"http://127.0.0.1:{stack.port}/readyz").status_code == 503
        topics = json.loads(headrace(stack, "topics", "--output", "json").stdout)
        lags = {row["topic"].partition(".")[2]: row["lag"] for row in topics}
        told = [lags[name] for name in ("requests.echo.batch", "completions", "dlq")]
        assert told == [3, 0, None], "it is known although nobody reads"
        doctor = headrace(stack, "doctor", "--output", "json")
        assert doctor.returncode == 1
        assert {row["check"] for row in json.loads(doctor.stdout) if not row["ok"]} == {"workers", "model echo"}
    finally:
        stack.resume("inference-0")
    wait_for_end(client, batch.id)


def test_events_tell_how_a_batch_moves_on_until_it_has_ended(stack: Stack) -> None:
    client = stack.client()
    batch = submit(client, chat_lines(200, "echo"))
    began = time.monotonic()
    with httpx2.stream("GET", f"{stack.url}/batches/{batch.id}/events", timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        told = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    statuses = [json.loads(snapshot)["status"] for snapshot in told if snapshot != "{}"]
    assert statuses[-1] == "completed"
    assert len(statuses) <= (time.monotonic() - began) * 4 + 2
    assert httpx2.get(f"{stack.url}/batches/nope/events").status_code == 404


def test_command_line_makes_a_batch_and_shows_it(stack: Stack, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join(json.dumps(line) for line in chat_lines(20, "echo")))

    made = headrace(stack, "batches", "create", str(source), "--metadata", "a=b", "--wait", "--output", "json")
    assert made.returncode == 0, made.stderr
    batch = json.loads(made.stdout)
    assert (batch["status"], batch["metadata"]) == ("completed", {"a": "b"})
    assert len(headrace(stack, "batches", "results", batch["id"]).stdout.splitlines()) == 20
    listed = headrace(stack, "batches", "list", "--output", "jsonl").stdout.splitlines()
    assert batch["id"] in {json.loads(line)["id"] for line in listed}
    assert batch["id"] in headrace(stack, "batches", "get", batch["id"]).stdout
    assert batch["input_file_id"] in headrace(stack, "files", "list").stdout
    assert "inference-0" in headrace(stack, "workers").stdout
    assert "requests.echo.batch" in headrace(stack, "topics").stdout
    doctor = headrace(stack, "doctor")
    assert doctor.returncode == 0, doctor.stdout


def test_slow_line_says_where_its_time_went(stack: Stack) -> None:
    client, tag = stack.client(), f"slow/{time.time_ns()} ü"
    stack.pause("inference-0")
    try:
        lines = [*chat_lines(5, "echo"), chat_line(tag, "echo", "x")]
        batch = submit(client, lines)
        url = f"{stack.url}/batches/{batch.id}/lines/{quote(tag, safe='')}"
        time.sleep(2.5)
        waiting = httpx2.get(url).json()
        assert (waiting["status"], waiting["line"]) == ("dispatched", 6)
    finally:
        stack.resume("inference-0")
    ended = wait_for_end(client, batch.id)

    told = httpx2.get(url).json()
    assert (told["status"], told["custom_id"], told["attempt"]) == ("completed", tag, 1)
    assert told["worker"].startswith("inference-0")
    assert told["seconds"]["in_topic"] > 1.5, "the worker did not take it"
    assert told["seconds"]["in_engine"] < 1.0
    times = [step["at"] for step in told["steps"]]
    assert None not in times
    whole_seconds = (0, 1, len(times) - 1)
    exact = [at for index, at in enumerate(times) if index not in whole_seconds]
    assert exact == sorted(exact)
    assert told["steps"][-1]["file_id"] == ended.output_file_id
    why = headrace(stack, "batches", "why", batch.id, tag)
    assert why.returncode == 0 and "out of the engine" in why.stdout
    assert httpx2.get(f"{stack.url}/batches/{batch.id}/lines/nope").json()["error"]["code"] == "line_not_found"
    assert headrace(stack, "batches", "why", batch.id, "nope").returncode == 1


def events(stack: Stack) -> list[dict[str, Any]]:
    """All lines of all logs: each is a JSON object, also what libraries say."""
    lines = [line for path in (stack.data / "logs").glob("*-*.log") for line in path.read_text().splitlines() if line]
    return [json.loads(line) for line in lines]


def test_log_has_one_line_for_each_event_of_a_batch(stack: Stack) -> None:
    client = stack.client()
    batch = wait_for_end(client, submit(client, chat_lines(7, "echo")).id)
    stack.pause("inference-0")
    try:
        cancelled = submit(client, chat_lines(3, "echo"))
        while client.batches.retrieve(cancelled.id).status != "in_progress":
            time.sleep(0.1)
        client.batches.cancel(cancelled.id)
    finally:
        stack.resume("inference-0")
    wait_for_end(client, cancelled.id)
    time.sleep(0.5)  # what is written after its answer

    def life(batch_id: str) -> list[dict[str, Any]]:
        mine = [event for event in events(stack) if event.get("batch_id") == batch_id]
        return sorted(mine, key=lambda event: event["timestamp"])

    told = life(batch.id)
    by_name = {event["event"]: event for event in told}
    assert [event["event"] for event in told][:2] == ["batch created", "batch validated"]
    # A small batch may be closed before the dispatcher hears that its cursor is written.
    assert sorted(by_name) == ["batch closed", "batch created", "batch dispatched", "batch validated"]
    assert len(told) == len(by_name)
    closed = by_name["batch closed"]
    assert (by_name["batch dispatched"]["num_lines"], closed["completed"], closed["status"]) == (7, 7, "completed")
    assert {event["service"] for event in told if event is not closed} == {"ingest"}
    assert closed["service"] == "collector"
    seen = [event["event"] for event in life(cancelled.id)]
    assert {"batch cancelled by its user", "end of batch recorded", "batch closed"} <= set(seen)
    assert len(seen) == len(set(seen))
    assert all({"event", "level", "timestamp", "service"} <= set(event) for event in events(stack))


def test_ready_page_names_what_each_process_depends_on(stack: Stack) -> None:
    ingest = httpx2.get(f"http://127.0.0.1:{stack.port}/readyz").json()
    assert ingest["dependencies"] == dict.fromkeys(
        ("broker", "store", "ingest", "view", "dispatcher", "admission", "workers/echo"), "ok"
    )
    others = {name: url for name, url in stack.stack_file()["metrics"].items() if not name.startswith("ingest")}
    told = {name: httpx2.get(url.replace("/metrics", "/readyz")).json() for name, url in others.items()}
    assert all(page["ready"] and not page["missing"] for page in told.values())
    assert {"broker", "store", "collector", "partition 0"} <= set(told["collector-0"]["dependencies"])
    assert {"broker", "engine", "group", "worker"} == set(told["inference-0"]["dependencies"])


def test_exit_codes_of_the_command_line(stack: Stack) -> None:
    assert headrace(stack, "batches", "get", "batch_nope").returncode == 1
    assert headrace(stack, "batches", "get").returncode == 2
    assert headrace(stack, "batches", "list", "--url", "http://127.0.0.1:1/v1").returncode == 5
    refused = submit(stack.client(), chat_lines(2, "no-such-model"))
    assert headrace(stack, "batches", "watch", refused.id).returncode == 3


def test_what_is_shown_is_as_the_document_says(stack: Stack) -> None:
    client, url = stack.client(), stack.url
    batch = wait_for_end(client, submit(client, [chat_line("one", "echo", "x")]).id)
    document = httpx2.get(url.removesuffix("/v1") + "/openapi.json").json()

    def check(name: str, path: str) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema_rs.validate(schema, httpx2.get(f"{url}{path}").json())

    check("WorkerList", "/workers")
    check("Batch", f"/batches/{batch.id}")
    check("BatchList", "/batches")
    check("BatchLine", f"/batches/{batch.id}/lines/one")
