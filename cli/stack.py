"""Which processes make a stack, with which settings? PURE: options in, child specifications out."""

import json
from collections.abc import Callable, Mapping, Sequence

from cli.options import UpOptions
from cli.supervisor import ChildSpec

HOST = "127.0.0.1"
# Stop order: no new work, then drain the workers, then fold what they published, then the log.
_INGEST_ORDER, _INFERENCE_ORDER, _COLLECTOR_ORDER, KAFKA_ORDER = 0, 1, 2, 3
# The in-memory broker keeps 5 MB per partition: far less may be under way at once.
_MEMORY_OUTSTANDING_LINES = "200"
# It also holds a fetch for its whole time, whatever comes meanwhile.
_MEMORY_FETCH_MAX_WAIT_MS = "50"


def service_specs(
    options: UpOptions,
    *,
    environ: Mapping[str, str],
    bootstrap: str,
    log_id: str,
    stack_id: str,
    python: str,
    inference_python: str,
    new_port: Callable[[], int],
) -> list[ChildSpec]:
    """Specifications of all services; each gets a free port for its health page.

    `stack_id` is the data folder's own: slots are stable within it, and another machine's stack on the same log must
    not carry the same static ids.
    """
    common = dict(environ) | {
        "HEADRACE_KAFKA__BOOTSTRAP": bootstrap,
        "HEADRACE_KAFKA__CREATE_TOPICS": environ.get("HEADRACE_KAFKA__CREATE_TOPICS", "true"),
        "HEADRACE_STORE__URL": options.store,
        "HEADRACE_MODELS": json.dumps([model.name for model in options.models]),
        "PYTHONUNBUFFERED": "1",
    }
    if options.otlp:
        common["HEADRACE_TELEMETRY__OTLP_ENDPOINT"] = options.otlp
    if log_id:
        common["HEADRACE_KAFKA__LOG_ID"] = log_id
        common.setdefault("HEADRACE_KAFKA__FETCH_MAX_WAIT_MS", _MEMORY_FETCH_MAX_WAIT_MS)
    specs = [_ingest(options, common, python, stack_id, new_port(), memory=bool(log_id))]
    specs += [_collector(options, common, python, number, new_port()) for number in range(options.num_collectors)]
    specs += [
        _inference(options, common, inference_python, stack_id, number, new_port())
        for number in range(options.num_workers)
    ]
    return specs


def metrics_pages(specs: Sequence[ChildSpec]) -> dict[str, str]:
    """Where each service shows its metrics."""
    return {spec.name: f"http://{HOST}:{spec.env['HEADRACE_HEALTH__PORT']}/metrics" for spec in specs}


def _ingest(
    options: UpOptions, common: Mapping[str, str], python: str, stack_id: str, port: int, *, memory: bool
) -> ChildSpec:
    env = dict(common) | {
        "HEADRACE_INGEST__HOST": HOST,
        "HEADRACE_INGEST__PORT": str(options.port),
        "HEADRACE_HEALTH__PORT": str(port),
    }
    env.setdefault("HEADRACE_INGEST__INSTANCE_ID", f"ingest-0.{stack_id}")
    env.setdefault("HEADRACE_INGEST__VIEW_PATH", str(options.data / "view.sqlite"))
    if memory:
        env["HEADRACE_INGEST__OUTSTANDING_LINES_PER_BATCH"] = _MEMORY_OUTSTANDING_LINES
        env["HEADRACE_INGEST__OUTSTANDING_LINES_PER_TENANT"] = _MEMORY_OUTSTANDING_LINES
    ready = f"http://{HOST}:{options.port}/readyz"
    return ChildSpec("ingest-0", (python, "-m", "services.ingest"), env, ready, _INGEST_ORDER)


def _collector(options: UpOptions, common: Mapping[str, str], python: str, number: int, port: int) -> ChildSpec:
    env = dict(common) | {
        "HEADRACE_COLLECTOR__INDEX": str(number),
        "HEADRACE_COLLECTOR__COUNT": str(options.num_collectors),
        "HEADRACE_HEALTH__PORT": str(port),
    }
    ready = f"http://{HOST}:{port}/readyz"
    return ChildSpec(f"collector-{number}", (python, "-m", "services.collector"), env, ready, _COLLECTOR_ORDER)


def _inference(
    options: UpOptions, common: Mapping[str, str], python: str, stack_id: str, number: int, port: int
) -> ChildSpec:
    model, name = options.model_of_worker(number), f"inference-{number}"
    env = dict(common) | {
        "HEADRACE_INFERENCE__WORKER_ID": f"{name}.{stack_id}",
        "HEADRACE_INFERENCE__STATIC_MEMBER": "true",
        "HEADRACE_INFERENCE__ENGINE": options.engine.kind,
        "HEADRACE_INFERENCE__MODEL": model.name,
        "HEADRACE_INFERENCE__MODEL_PATH": model.path,
        "HEADRACE_HEALTH__PORT": str(port),
    }
    if options.engine.url:
        env["HEADRACE_INFERENCE__OPENAI_BASE_URL"] = options.engine.url
    if options.vllm_args:
        env["HEADRACE_INFERENCE__VLLM_ARGS"] = json.dumps(options.vllm_args)
    ready = f"http://{HOST}:{port}/readyz"
    return ChildSpec(name, (python, "-m", "services.inference"), env, ready, _INFERENCE_ORDER)
