"""What does a batch cost beside the engine itself? Headrace, offline `LLM.chat` and vLLM's `run-batch`, in turns."""

import json
import os
import random
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cli.up import cache_folder, inference_python
from tests.bench.figure import Figure, median_of
from tests.bench.processes import Usage, cpu_of_family, cpu_seconds, minus, own_cpu_seconds
from tests.e2e.stack import Stack, submit_file, wait_for_end

REPOSITORY = Path(__file__).parents[2]
OUTPUT_TOKENS = 24
RARELY_S = 0.5
# The last state of its progress bar, not of the one that loads the model.
_RATE = re.compile(r"([\d.]+)(req/s|s/req)")


@dataclass(frozen=True, slots=True)
class Case:
    """A model, how many rows, how the model is run, and what is to be reached."""

    model: str
    parameters: str
    rows: int
    executor: str
    tax_target: str
    run_batch_target: str


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds of each way, and CPU seconds by hop."""

    llm_s: float
    ours_s: float
    run_batch_s: float
    cpu: Usage


# With `uni` the model runs inside the engine core, which suits one that costs something; `mp` suits one that is free.
CASES = (
    Case("small-chat", "15 M", 1_000, "uni", "≥ 0.97", "≥ 1.0"),
    Case("tiny-chat", "0.2 M", 2_000, "mp", "≥ 0.80", "≥ 1.3"),
)
FLAGS = {"dtype": "float32", "max-num-seqs": "256", "max-num-batched-tokens": "4096", "max-model-len": "1024"}


def rows_file(case: Case) -> bytes:
    """Chats of 60 to 100 prompt tokens whose answers all have the same length."""
    rng = random.Random(case.model)
    words = ["worker", "broker", "topic", "partition", "consumer", "producer", "engine", "token", "river", "garden"]
    lines = []
    for number in range(case.rows):
        text = " ".join(
            f"The {rng.choice(words)} reads the {rng.choice(words)} often." for _ in range(rng.randint(3, 8))
        )
        body = {
            "model": case.model,
            "messages": [
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": f"{text} Why, request {number}?"},
            ],
            "max_tokens": OUTPUT_TOKENS,
            "temperature": 0,
            "ignore_eos": True,
        }
        line = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        lines.append(json.dumps(line))
    return "\n".join(lines).encode() + b"\n"


def vllm_env(case: Case) -> dict[str, str]:
    """The same for all three."""
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    alone = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} if case.executor == "uni" else {}
    return dict(os.environ) | quiet | alone | {"VLLM_CPU_KVCACHE_SPACE": "1"}


class Offline:
    """A resident `LLM`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    @property
    def cpu_s(self) -> float:
        """CPU that it used so far."""
        return cpu_of_family(self._process.pid)

    def seconds(self) -> float:
        """One pass over all rows."""
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        return float(self._line())

    def wait_until_ready(self) -> None:
        while self._line() != "ready":
            pass

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "vLLM ended"
        return line.strip()


@contextmanager
def offline(case: Case, path: Path) -> Iterator[Offline]:
    """Load the model beside everything else."""
    arguments = {
        "model": str(cache_folder() / "models" / case.model),
        "enforce_eager": True,
        "distributed_executor_backend": case.executor,
        **{flag.replace("-", "_"): int(value) if value.isdigit() else value for flag, value in FLAGS.items()},
    }
    command = [inference_python(), str(REPOSITORY / "tests/bench/vllm_offline.py"), str(path), json.dumps(arguments)]
    process = subprocess.Popen(
        command,
        env=vllm_env(case),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        found = Offline(process)
        found.wait_until_ready()
        yield found
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


def run_batch(case: Case, path: Path, out: Path) -> float:
    """Seconds of vLLM's own batch runner, start-up left out: by the rate that its progress bar ends with."""
    flags = [f"--{flag}={value}" for flag, value in FLAGS.items()]
    command = [inference_python(), "-m", "vllm.entrypoints.launchers.run_batch", "-i", str(path), "-o", str(out)]
    command += ["--model", str(cache_folder() / "models" / case.model), "--served-model-name", case.model]
    command += ["--enforce-eager", f"--distributed-executor-backend={case.executor}", *flags]
    done = subprocess.run(command, env=vllm_env(case), capture_output=True, text=True, timeout=900, check=True)
    number, unit = _RATE.findall(done.stderr)[-1]
    assert len(out.read_text().splitlines()) == case.rows
    per_second = float(number) if unit == "req/s" else 1 / float(number)
    return case.rows / per_second


def headrace(stack: Stack, content: bytes, rows: int) -> float:
    """Seconds from create to completed."""
    client = stack.client()
    file_id = client.files.create(file=("input.jsonl", content), purpose="batch").id
    began = time.perf_counter()
    batch = submit_file(client, file_id)
    # As seldom as a user would ask while much is left to do: on two cores each answer costs what is measured.
    while batch.request_counts.completed < 0.9 * rows:
        time.sleep(RARELY_S)
        batch = client.batches.retrieve(batch.id)
    batch = wait_for_end(client, batch.id, timeout_s=900)
    seconds = time.perf_counter() - began
    assert batch.request_counts.completed == rows, batch
    return seconds


def measure(rounds: int = 3, cases: tuple[Case, ...] = CASES) -> list[Figure]:
    """Both models: the tax against `LLM.chat`, and the speed against `run-batch`."""
    return [figure for case in cases for figure in _measure_case(case, rounds)]


def _measure_case(case: Case, rounds: int) -> list[Figure]:
    content = rows_file(case)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_bytes(content)
        flags = FLAGS | {"distributed-executor-backend": case.executor}
        model = f"{case.model}={cache_folder() / 'models' / case.model}"
        arguments = ["--engine", "vllm", "--model", model, *(f"--vllm-arg=--{f}={v}" for f, v in flags.items())]
        with Stack(Path(folder), arguments) as stack, offline(case, path) as llm:
            headrace(stack, content, case.rows)
            llm.seconds()
            outs = [Path(folder) / f"out-{number}.jsonl" for number in range(rounds)]
            return _figures(case, [_round(case, stack, llm, path, out) for out in outs])


def _round(case: Case, stack: Stack, llm: Offline, path: Path, out: Path) -> Round:
    start, cpu = cpu_by_hop(stack), llm.cpu_s
    llm_s = llm.seconds()
    between = cpu_by_hop(stack)
    hops = {"LLM.chat": llm.cpu_s - cpu, "the idle stack beside it": sum(minus(between, start).values())}
    ours_s = headrace(stack, path.read_bytes(), case.rows)
    hops |= minus(cpu_by_hop(stack), between)
    return Round(llm_s, ours_s, run_batch(case, path, out), hops)


def _figures(case: Case, rounds: list[Round]) -> list[Figure]:
    name, tokens = f"{case.parameters} model", case.rows * OUTPUT_TOKENS
    per_row = 1000 / case.rows
    return [
        median_of(f"{name}: Headrace ÷ LLM.chat", [r.llm_s / r.ours_s for r in rounds], "", case.tax_target),
        median_of(
            f"{name}: Headrace ÷ run-batch", [r.run_batch_s / r.ours_s for r in rounds], "", case.run_batch_target
        ),
        median_of(f"{name}: Headrace", [tokens / r.ours_s for r in rounds], "output tokens/s"),
        *(median_of(f"  CPU: {hop}", [r.cpu[hop] * per_row for r in rounds], "ms/row") for hop in rounds[0].cpu),
    ]


def cpu_by_hop(stack: Stack) -> Usage:
    """CPU so far; the engine core is a process of its own, beside the worker's front end."""
    own, all_of_it = own_cpu_seconds(stack), cpu_seconds(stack)
    engine_core = {"engine core": all_of_it["inference-0"] - own["inference-0"]}
    return engine_core | {name: used for name, used in own.items() if name != "jaeger"}
