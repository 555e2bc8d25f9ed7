"""Which processes make a stack."""

import json
from itertools import count
from pathlib import Path
from typing import Any

from cli.options import Engine, Model, UpOptions
from cli.stack import service_specs
from cli.supervisor import ChildSpec


def specs(log_id: str = "", **changes: Any) -> dict[str, ChildSpec]:
    base: dict[str, Any] = {
        "port": 8000,
        "data": Path("/data"),
        "kafka": "auto",
        "store": "file:///data/store",
        "engine": Engine("echo"),
        "models": (Model("a", "a"), Model("b", "/weights/b")),
        "num_workers": 3,
        "num_collectors": 2,
        "otlp": "http://otlp:4318",
        "vllm_args": ("--dtype=float32",),
    }
    ports = count(9000)
    found = service_specs(
        UpOptions(**(base | changes)),
        environ={"PATH": "/bin"},
        bootstrap="broker:1",
        log_id=log_id,
        stack_id="abc123",
        python="python",
        inference_python="vllm-python",
        new_port=lambda: next(ports),
    )
    return {spec.name: spec for spec in found}


def test_workers_are_shared_out_over_the_models() -> None:
    found = specs()

    assert set(found) == {
        *("ingest-0", "collector-0", "collector-1", "inference-0", "inference-1", "inference-2"),
    }
    models = [found[f"inference-{n}"].env["HEADRACE_INFERENCE__MODEL"] for n in range(3)]
    assert models == ["a", "b", "a"]
    assert found["inference-1"].env["HEADRACE_INFERENCE__MODEL_PATH"] == "/weights/b"
    assert found["inference-0"].argv[0] == "vllm-python"


def test_everybody_knows_the_same_log_store_and_models() -> None:
    for spec in specs().values():
        assert spec.env["HEADRACE_KAFKA__BOOTSTRAP"] == "broker:1"
        assert spec.env["HEADRACE_STORE__URL"] == "file:///data/store"
        assert json.loads(spec.env["HEADRACE_MODELS"]) == ["a", "b"]
        assert spec.env["HEADRACE_TELEMETRY__OTLP_ENDPOINT"] == "http://otlp:4318"
        assert "HEADRACE_KAFKA__LOG_ID" not in spec.env


def test_new_work_stops_first_and_every_health_page_has_its_own_port() -> None:
    found = specs()

    assert found["ingest-0"].stop_order < found["inference-0"].stop_order < found["collector-0"].stop_order
    urls = [spec.ready_url for spec in found.values()]
    assert len(set(urls)) == len(urls)


def test_in_memory_log_gets_an_identity_and_little_is_under_way() -> None:
    found = specs(log_id="memory-1")

    assert found["collector-0"].env["HEADRACE_KAFKA__LOG_ID"] == "memory-1"
    assert int(found["ingest-0"].env["HEADRACE_INGEST__OUTSTANDING_LINES_PER_BATCH"]) < 1000


def test_only_the_log_in_memory_is_asked_for_less_at_a_time() -> None:
    name = "HEADRACE_KAFKA__FETCH_MAX_WAIT_MS"

    assert specs(log_id="memory-1")["collector-0"].env[name] == "50"
    assert name not in specs()["collector-0"].env


def test_remote_engine_gets_its_url() -> None:
    found = specs(engine=Engine("openai", "http://h:1/v1"))

    assert found["inference-0"].env["HEADRACE_INFERENCE__OPENAI_BASE_URL"] == "http://h:1/v1"


def test_static_ids_are_the_slot_s_and_the_data_folder_s() -> None:
    found = specs()

    assert found["ingest-0"].env["HEADRACE_INGEST__INSTANCE_ID"] == "ingest-0.abc123"
    assert found["inference-1"].env["HEADRACE_INFERENCE__WORKER_ID"] == "inference-1.abc123"
    assert found["inference-1"].env["HEADRACE_INFERENCE__STATIC_MEMBER"] == "true"
