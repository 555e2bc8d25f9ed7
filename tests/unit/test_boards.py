"""Boards and alert rules: they are what the script makes, and every metric that they ask for exists."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from shared.metric_names import METRICS

DEPLOY = Path(__file__).parents[2] / "deploy"
# What others show beside ours: FastAPI, Prometheus itself, and vLLM (checked against its wheel by `vllm_load`'s tests).
OTHERS = {
    *(f"http_server_request_duration_seconds_{part}" for part in ("bucket", "sum", "count")),
    "up",
    *("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"),
    *("vllm:time_to_first_token_seconds_bucket", "vllm:request_queue_time_seconds_bucket"),
}
KNOWN = {name for metric in METRICS for name in metric.prometheus_names} | OTHERS
WORDS = {
    *("sum", "max", "min", "by", "rate", "increase", "histogram_quantile", "min_over_time", "or", "and", "on"),
    *("vector", "le"),
}
LABELS = {label for metric in METRICS for label in metric.labels} | {"http_route", "instance", "job"}


def metrics_in(query: str) -> set[str]:
    bare = re.sub(r'"[^"]*"|\[[^]]*\]', "", query)
    names = set(re.findall(r"[a-zA-Z_][a-zA-Z0-9_:]*", bare))
    return names - WORDS - LABELS


def make_boards() -> Any:
    spec = importlib.util.spec_from_file_location("make_boards", DEPLOY / "grafana" / "make_boards.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", make_boards().BOARDS)
def test_board_is_what_the_script_makes_and_asks_for_what_there_is(name: str) -> None:
    found = json.loads((DEPLOY / "grafana" / f"{name}.json").read_text())
    assert found == make_boards().board(name), "run deploy/grafana/make_boards.py"
    queries = [target["expr"] for panel in found["panels"] for target in panel.get("targets", ())]
    assert queries
    for query in queries:
        assert metrics_in(query) and metrics_in(query) <= KNOWN, query


def test_alert_rules_ask_for_what_there_is_and_say_what_to_do() -> None:
    rules = [
        rule
        for group in yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text())["groups"]
        for rule in group["rules"]
    ]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 8
    for rule in rules:
        assert metrics_in(rule["expr"]) and metrics_in(rule["expr"]) <= KNOWN, rule["expr"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert {"summary", "action"} <= set(rule["annotations"])


def test_a_metric_that_is_not_there_is_noticed() -> None:
    assert metrics_in("sum by (model) (rate(headrace_nothing_total[5m]))") == {"headrace_nothing_total"}
