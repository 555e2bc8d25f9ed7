"""What is the order of lines worth? Cached prompt tokens when the KV cache is too small for all prefixes at once."""

import json
import random
import tempfile
from pathlib import Path

from cli.up import cache_folder
from tests.bench.figure import Figure
from tests.e2e.stack import Stack, submit_file, wait_for_end

MODEL = "tiny-chat"
PREFIXES, QUESTIONS = 20, 16
# 128 tokens a block on CPU: six or seven of the prefixes fit, and the lines that run.
FLAGS = {
    "dtype": "float32",
    "max-num-seqs": "4",
    "max-model-len": "2048",
    "num-gpu-blocks-override": "64",
    "block-size": "128",
}
OFF = {"HEADRACE_INFERENCE__ORDER_BY_PREFIX": "false", "HEADRACE_INGEST__LIKE_LINES_TOGETHER": "false"}


def rows_file() -> bytes:
    """Each question of every prefix before the next question: neighbours never share a prefix."""
    rng = random.Random(7)
    words = ["worker", "broker", "topic", "partition", "consumer", "producer", "engine", "token", "river", "garden"]
    systems = [" ".join(rng.choice(words) for _ in range(480)) for _ in range(PREFIXES)]
    lines = []
    for question in range(QUESTIONS):
        for number, system in enumerate(systems):
            body = {
                "model": MODEL,
                "messages": [
                    {"role": "system", "content": system},
                    {"role": "user", "content": f"Question {question}?"},
                ],
                "max_tokens": 4,
                "temperature": 0,
            }
            line = {"custom_id": f"{number}-{question}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            lines.append(json.dumps(line))
    return "\n".join(lines).encode()


def cached_share(env: dict[str, str]) -> float:
    """Cached prompt tokens over all prompt tokens of one batch."""
    arguments = ["--engine", "vllm", "--model", f"{MODEL}={cache_folder() / 'models' / MODEL}"]
    arguments += [f"--vllm-arg=--{flag}={value}" for flag, value in FLAGS.items()]
    arguments += ["--vllm-arg=--enable-prompt-tokens-details"]
    with tempfile.TemporaryDirectory() as data, Stack(Path(data), arguments, env) as stack:
        client = stack.client()
        file_id = client.files.create(file=("input.jsonl", rows_file()), purpose="batch").id
        batch = wait_for_end(client, submit_file(client, file_id).id, timeout_s=600)
    assert batch.request_counts.completed == PREFIXES * QUESTIONS, batch
    return float(batch.usage.input_tokens_details.cached_tokens / batch.usage.input_tokens)


def measure() -> list[Figure]:
    """With and without."""
    return [
        Figure("cached prompt tokens, ordered by prefix", cached_share({}), "", "≥ 0.80"),
        Figure("cached prompt tokens, as they come", cached_share(OFF)),
    ]
