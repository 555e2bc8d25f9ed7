"""The real engine: vLLM inside the workers, and vLLM's own HTTP server behind the `openai` engine.

One chat model (tiny, random weights, made locally) and one embedding model with its real weights.
"""

import json
import math
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from cli.local_kafka import free_port
from cli.up import cache_folder, inference_python
from shared.errors import SetupError
from shared.settings import ServiceSettings
from tests.conftest import skip_unexercised
from tests.e2e.stack import Stack, assert_each_line_once, chat_lines, result_lines, submit, wait_for_end
from tests.otlp_sink import OtlpSink, serve_otlp_sink
from tests.providers import Server

SERVER_START_TIMEOUT_S = 300.0
CHAT, EMBEDDING = "tiny-chat", "all-MiniLM-L6-v2"
GREEDY = {"max_tokens": 8, "temperature": 0}
# The services' default, which the processes of these tests have.
DRAIN_TIMEOUT_S = ServiceSettings().drain_timeout_s


def model_folder(name: str) -> Path:
    folder = cache_folder() / "models" / name
    if not (folder / "config.json").is_file():
        skip_unexercised("vLLM", f"no {name} in the cache (make setup ENGINE=vllm)")
    return folder


@pytest.fixture(scope="module")
def python() -> str:
    try:
        return inference_python()
    except SetupError as error:
        skip_unexercised("vLLM", str(error))
        raise


@pytest.fixture(scope="module")
def sink() -> Iterator[OtlpSink]:
    with serve_otlp_sink() as running:
        yield running


@pytest.fixture(scope="module")
def embedded_stack(
    kafka: Server, python: str, sink: OtlpSink, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A stack whose two workers hold a vLLM each."""
    assert python
    address = "memory" if kafka.provider == "memory" else kafka.address
    arguments = ["--engine", "vllm", "--kafka", address, "--vllm-arg=--dtype=float32", "--vllm-arg=--max-num-seqs=32"]
    arguments += ["--model", f"{CHAT}={model_folder(CHAT)}", "--model", f"{EMBEDDING}={model_folder(EMBEDDING)}"]
    arguments += ["--otlp", sink.address]
    env = {"HEADRACE_KAFKA__TOPIC_PREFIX": "vllm.", "HEADRACE_TELEMETRY__SAMPLE_RATIO": "0.5"}
    with Stack(tmp_path_factory.mktemp("vllm"), arguments, env) as stack:
        yield stack


@pytest.fixture(scope="module")
def embedded(embedded_stack: Stack) -> OpenAI:
    return embedded_stack.client()


def lines_of(url: str, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"custom_id": f"l{n}", "method": "POST", "url": url, "body": body} for n, body in enumerate(bodies)]


def run(client: OpenAI, url: str, bodies: list[dict[str, Any]]) -> tuple[Any, list[Any], list[Any]]:
    lines = lines_of(url, bodies)
    batch = wait_for_end(client, submit(client, lines, url).id, timeout_s=240)
    assert_each_line_once(client, batch, lines)
    return batch, result_lines(client, batch.output_file_id), result_lines(client, batch.error_file_id)


def test_chat_and_completions_have_vllms_bodies(embedded: OpenAI) -> None:
    lines = [line | {"body": line["body"] | GREEDY} for line in chat_lines(200, CHAT)]
    batch = wait_for_end(embedded, submit(embedded, lines).id, timeout_s=240)

    assert batch.status == "completed"
    assert_each_line_once(embedded, batch, lines)
    body = result_lines(embedded, batch.output_file_id)[0]["response"]["body"]
    assert body["object"] == "chat.completion"
    assert body["model"] == CHAT
    assert body["usage"]["completion_tokens"] == 8
    assert batch.usage.output_tokens == 200 * 8

    _, (entry,), _ = run(embedded, "/v1/completions", [{"model": CHAT, "prompt": "once upon a time"} | GREEDY])
    assert entry["response"]["body"]["object"] == "text_completion"
    _, (entry,), _ = run(embedded, "/v1/responses", [{"model": CHAT, "input": "hello there", "max_output_tokens": 4}])
    assert entry["response"]["body"]["object"] == "response"


def test_engine_tells_where_the_time_went_and_its_span_is_a_part_of_the_lines(
    embedded: OpenAI, embedded_stack: Stack, sink: OtlpSink
) -> None:
    lines = chat_lines(12, CHAT)
    batch = wait_for_end(embedded, submit(embedded, lines).id)
    answered = result_lines(embedded, batch.output_file_id)
    assert all("metrics" not in {k for k, v in line["response"]["body"].items() if v} for line in answered)
    stories = [
        httpx2.get(f"{embedded_stack.url}/batches/{batch.id}/lines/{line['custom_id']}").json() for line in lines
    ]
    for story in stories:
        seconds = story["seconds"]
        inside = [seconds[part] for part in ("engine_queue", "prefill", "decode")]
        assert None not in inside and seconds["prefill"] > 0 and seconds["decode"] > 0, seconds
        assert sum(inside) <= seconds["in_engine"] + 0.01

    traced = {story["trace_id"] for story in stories} - {None}
    assert 0 < len(traced) < len(lines)
    requests = sink.wait_for(lambda s: s.name == "llm_request" and s.trace_id in traced, len(traced))
    sink.wait_for(lambda s: s.name == f"chat {CHAT}" and s.trace_id in traced, len(traced))
    for request in requests:
        assert request.parent_id == sink.trace(request.trace_id)[f"chat {CHAT}"].span_id
        assert request.service == "headrace-inference"
    assert all(s.parent_id for s in sink.spans if s.name == "llm_request"), "lines without a trace have none"


def test_vllms_metrics_are_on_the_workers_page(embedded: OpenAI, embedded_stack: Stack) -> None:
    run(embedded, "/v1/chat/completions", [{"model": CHAT, "messages": [{"role": "user", "content": "x"}]} | GREEDY])
    pages = embedded_stack.stack_file()["metrics"]
    text = "".join(httpx2.get(url).text for name, url in pages.items() if name.startswith("inference"))
    found = {family.name for family in text_string_to_metric_families(text)}
    assert {"vllm:num_requests_running", "vllm:e2e_request_latency_seconds", "headrace_lines_finished"} <= found
    assert {"gen_ai_server_time_to_first_token_seconds", "gen_ai_server_time_per_output_token_seconds"} <= found


def test_refusals_of_vllm_are_error_lines(embedded: OpenAI) -> None:
    good: dict[str, Any] = {"model": CHAT, "messages": [{"role": "user", "content": "hello there"}]} | GREEDY
    bad: list[dict[str, Any]] = [
        {"model": CHAT, "messages": [{"content": "no role"}]},
        good | {"temperature": -1},
        good | {"max_tokens": 0},
        good | {"messages": [{"role": "user", "content": "word " * 20_000}]},
    ]

    batch, output, errors = run(embedded, "/v1/chat/completions", [good, *bad, good])

    assert batch.status == "completed"
    assert [entry["custom_id"] for entry in output] == ["l0", "l5"]
    assert [entry["response"]["status_code"] for entry in errors] == [400] * 4
    assert all(entry["response"]["body"]["error"]["message"] for entry in errors)


def test_seeds_and_long_prompts_do_not_kill_the_engine(embedded: OpenAI) -> None:
    bodies: list[dict[str, Any]] = [
        {"model": CHAT, "messages": [{"role": "user", "content": "why " * (n * 10)}], "max_tokens": 8, "seed": n}
        for n in range(1, 101)
    ]

    batch, output, _ = run(embedded, "/v1/chat/completions", bodies)

    assert batch.status == "completed"
    assert len(output) == 100


def test_endpoint_that_the_model_does_not_offer_is_an_error_line(embedded: OpenAI) -> None:
    _, output, errors = run(embedded, "/v1/embeddings", [{"model": CHAT, "input": "x"}])

    assert output == []
    assert errors[0]["response"]["status_code"] == 404
    assert "does not support /v1/embeddings" in errors[0]["response"]["body"]["error"]["message"]


def test_scores_are_served_although_openai_has_none(embedded: OpenAI) -> None:
    bodies = [{"model": EMBEDDING, "text_1": "a cat", "text_2": ["a kitten", "a tax form"]}]

    _, (entry,), _ = run(embedded, "/v1/score", bodies)

    near, far = (item["score"] for item in entry["response"]["body"]["data"])
    assert near > far


def test_embeddings_mean_something(embedded: OpenAI) -> None:
    texts = ["a cat sleeps on the sofa", "a kitten naps on the couch", "the broker keeps a replicated log"]

    batch, output, _ = run(embedded, "/v1/embeddings", [{"model": EMBEDDING, "input": text} for text in texts])

    cat, kitten, broker = (entry["response"]["body"]["data"][0]["embedding"] for entry in output)
    assert len(cat) == 384
    assert batch.usage.input_tokens > 0
    assert cosine(cat, kitten) > cosine(cat, broker) + 0.3


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


@pytest.fixture(scope="module")
def vllm_server(python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM's own HTTP server with the chat model; its base URL."""
    port, log = free_port(), tmp_path_factory.mktemp("server") / "log"
    command = [python, "-m", "vllm.entrypoints.launchers.api_server.entry", "--model", str(model_folder(CHAT))]
    command += ["--served-model-name", CHAT, "--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
    command += ["--dtype", "float32", "--max-num-seqs", "32", "--distributed-executor-backend", "uni"]
    env = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=env)
    try:
        deadline = time.monotonic() + SERVER_START_TIMEOUT_S
        while not _is_healthy(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def test_openai_engine_in_front_of_vllms_server_answers_as_the_embedded_one(
    embedded: OpenAI, vllm_server: str, kafka: Server, data_dir: Path, topic_prefix: str
) -> None:
    bodies = [
        {"model": CHAT, "messages": [{"role": "user", "content": f"question {n} of the day"}]} | GREEDY
        for n in range(40)
    ]
    bodies.append({"model": CHAT, "messages": [{"role": "user", "content": "x y z"}], "temperature": -1})
    address = "memory" if kafka.provider == "memory" else kafka.address
    arguments = ["--engine", f"openai:{vllm_server}", "--model", CHAT, "--kafka", address]

    with Stack(data_dir, arguments, {"HEADRACE_KAFKA__TOPIC_PREFIX": topic_prefix}) as stack:
        _, remote, remote_errors = run(stack.client(), "/v1/chat/completions", bodies)
    _, local, local_errors = run(embedded, "/v1/chat/completions", bodies)

    assert [answer_of(entry) for entry in remote] == [answer_of(entry) for entry in local]
    assert [e["response"]["status_code"] for e in remote_errors + local_errors] == [400, 400]
    assert set(remote[0]["response"]["body"]) == set(local[0]["response"]["body"])


def answer_of(entry: dict[str, Any]) -> str:
    body = entry["response"]["body"]
    return json.dumps([body["choices"], body["usage"]], sort_keys=True)


@pytest.fixture(scope="module")
def adapters(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an adapter that can be loaded and one that cannot."""
    folder = tmp_path_factory.mktemp("adapters")
    script = str(Path(__file__).with_name("make_lora.py"))
    subprocess.run([python, script, str(model_folder(CHAT)), str(folder / "rhymes")], check=True, capture_output=True)
    (folder / "broken").mkdir()
    (folder / "broken" / "adapter_config.json").write_text('{"r": 4}')
    return folder


def test_adapter_is_a_model_of_its_own(kafka: Server, adapters: Path, data_dir: Path, topic_prefix: str) -> None:
    question = {"messages": [{"role": "user", "content": "what is a log"}], **GREEDY}
    address = "memory" if kafka.provider == "memory" else kafka.address
    arguments = ["--engine", "vllm", "--kafka", address, "--model", f"{CHAT}={model_folder(CHAT)}"]
    arguments += ["--vllm-arg=--dtype=float32", "--vllm-arg=--max-num-seqs=8"]
    env = {"HEADRACE_KAFKA__TOPIC_PREFIX": topic_prefix, "HEADRACE_INFERENCE__LORA_FOLDER": str(adapters)}

    with Stack(data_dir, arguments, env) as stack:
        client = stack.client()
        _, plain, _ = run(client, "/v1/chat/completions", [{"model": CHAT, **question}] * 2)
        _, tuned, _ = run(client, "/v1/chat/completions", [{"model": "rhymes", **question}] * 2)
        _, through_app, _ = run(client, "/v1/responses", [{"model": "rhymes", "input": "x", "max_output_tokens": 4}])
        _, nothing, refused = run(client, "/v1/chat/completions", [{"model": "broken", **question}])
        failed = wait_for_end(client, submit(client, lines_of("/v1/chat/completions", [{"model": "x", **question}])).id)
        models = {model.id for model in client.models.list()}

    assert {CHAT, "rhymes"} <= models
    assert {entry["response"]["body"]["model"] for entry in tuned + through_app} == {"rhymes"}
    assert text_of(plain[0]) == text_of(plain[1]) != text_of(tuned[0]) == text_of(tuned[1])
    assert nothing == []
    assert refused[0]["response"]["body"]["error"]["code"] == "adapter_not_loaded"
    assert failed.errors.data[0].code == "model_not_found"


def text_of(entry: dict[str, Any]) -> str:
    content = entry["response"]["body"]["choices"][0]["message"]["content"]
    assert isinstance(content, str)
    return content


def test_what_the_engine_can_do_passes_through(embedded: OpenAI) -> None:
    question = {"model": CHAT, "messages": [{"role": "user", "content": "answer"}], "temperature": 0}
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"enum": ["red", "blue"]}}}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    bodies: list[dict[str, Any]] = [
        question | {"max_tokens": 3, "logprobs": True, "top_logprobs": 2},
        question | {"max_tokens": 30, "response_format": form},
        question | {"max_tokens": 3, "tools": [tool], "tool_choice": "none"},
        question | {"max_tokens": 3, "messages": [{"role": "user", "content": [picture]}]},
    ]

    _, output, errors = run(embedded, "/v1/chat/completions", bodies)

    logged, formed, _ = (entry["response"]["body"]["choices"][0] for entry in output)
    assert [len(token["top_logprobs"]) for token in logged["logprobs"]["content"]] == [2, 2, 2]
    assert json.loads(formed["message"]["content"]) in {"red", "blue"}
    # The picture reached vLLM, which says itself that this model has no eyes.
    assert errors[0]["custom_id"] == "l3"
    assert "multimodal" in errors[0]["response"]["body"]["error"]["message"]


def engine_says(stack: Stack, metric: str) -> float:
    """A metric of vLLM's, summed over the workers."""
    total = 0.0
    for port in stack.health_ports("inference"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        total += sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(metric))
    return total


def wait_until(is_so: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_cancel_takes_running_lines_out_of_the_engine(embedded: OpenAI, embedded_stack: Stack) -> None:
    running, generated = "vllm:num_requests_running{", "vllm:generation_tokens_total{"
    long = {"max_tokens": 1_500, "ignore_eos": True, "temperature": 0}
    lines = [line | {"body": line["body"] | long} for line in chat_lines(64, CHAT)]
    before = engine_says(embedded_stack, generated)

    batch = submit(embedded, lines)
    wait_until(lambda: engine_says(embedded_stack, running) > 8)
    embedded.batches.cancel(batch.id)
    wait_until(lambda: engine_says(embedded_stack, running) == 0)
    ended = wait_for_end(embedded, batch.id)

    assert ended.status == "cancelled"
    assert engine_says(embedded_stack, generated) - before < 64 * 1_500
    done = result_lines(embedded, ended.output_file_id)
    assert len(done) < 64
    assert all(entry["response"]["body"]["usage"]["completion_tokens"] == 1_500 for entry in done)


def test_full_engine_drains_inside_the_deadline(embedded: OpenAI, embedded_stack: Stack) -> None:
    long = {"max_tokens": 1_500, "ignore_eos": True, "temperature": 0}
    lines = [line | {"body": line["body"] | long} for line in chat_lines(36, CHAT)]
    worker = embedded_stack.pid("inference-0")

    batch = submit(embedded, lines)
    wait_until(lambda: engine_says(embedded_stack, "vllm:num_requests_running{") > 8)
    os.kill(worker, signal.SIGTERM)
    wait_until(lambda: not Path(f"/proc/{worker}").exists(), DRAIN_TIMEOUT_S)
    log = (embedded_stack.data / "logs" / "inference-0.log").read_text()
    ended = wait_for_end(embedded, batch.id, timeout_s=240)

    assert '"drained"' in log and "did not shut down in time" not in log
    assert_each_line_once(embedded, ended, lines)
    done = result_lines(embedded, ended.output_file_id)
    assert [entry["response"]["body"]["usage"]["completion_tokens"] for entry in done] == [1_500] * 36
