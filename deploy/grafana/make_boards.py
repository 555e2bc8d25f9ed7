"""Make the Grafana boards: `python deploy/grafana/make_boards.py` writes the JSON files beside it.

A board is a list of rows, a row a list of panels, a panel a title, a unit and queries with their legends.
"""

import json
from pathlib import Path
from typing import Any

Panel = tuple[str, str, dict[str, str]]
FAILED_LINES = 'sum by (error_type) (rate(headrace_lines_finished_total{outcome="failed"}[5m]))'
SEGMENTS = "sum(rate(headrace_segment_append_duration_seconds_count[5m]))"
PANELS_IN_A_ROW, PANEL_HEIGHT, GRID_WIDTH = 3, 8, 24


def quantiles(metric: str, by: str = "") -> dict[str, str]:
    """The 50th and 95th percentile of a histogram, over five minutes."""
    labels = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    return {
        f"p{100 * q:.0f}{legend}": f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket[5m])))"
        for q in (0.5, 0.95)
    }


def rate(metric: str, by: str) -> dict[str, str]:
    """A counter's growth a second, by one label."""
    return {f"{{{{{by}}}}}": f"sum by ({by}) (rate({metric}[1m]))"}


BOARDS: dict[str, dict[str, list[Panel]]] = {
    "overview": {
        "Work": [
            ("Lines a second", "short", rate("headrace_lines_finished_total", "outcome")),
            ("Open batches", "short", {"{{status}}": "max by (status) (headrace_batches_open)"}),
            ("Batches that will be late", "short", {"at risk": "max(headrace_batches_at_risk)"}),
            ("Batches that ended", "short", rate("headrace_batches_closed_total", "status")),
            ("How long batches take", "s", quantiles("headrace_batch_duration_seconds")),
            (
                "Tokens a second",
                "short",
                {
                    "prompt": "sum(rate(gen_ai_client_inference_usage_input_tokens_total[1m]))",
                    "cached": "sum(rate(gen_ai_client_inference_usage_cache_read_input_tokens_total[1m]))",
                    "generated": "sum(rate(gen_ai_client_inference_usage_output_tokens_total[1m]))",
                },
            ),
        ],
        "What should not be": [
            ("Dead letters", "short", rate("headrace_dead_letters_total", "error_type")),
            (
                "Lines that were lost and sent again",
                "short",
                {"lines": "sum(increase(headrace_lines_redriven_total[5m]))"},
            ),
            ("Refused calls", "short", rate("headrace_http_refused_total", "reason")),
            (
                "Brokers and stores within reach",
                "short",
                {"{{dependency}} of {{instance}}": "min by (dependency, instance) (headrace_dependency_up)"},
            ),
        ],
    },
    "batches": {
        "The way of a line": [
            ("Dispatched", "short", rate("headrace_lines_dispatched_total", "model")),
            ("Finished", "short", rate("headrace_lines_finished_total", "model")),
            ("Collected", "short", rate("headrace_lines_collected_total", "verdict")),
            ("Wait before the engine", "s", quantiles("headrace_line_queue_wait_seconds", "class")),
            (
                "Errors",
                "short",
                {"{{error_type}}": 'sum by (error_type) (rate(headrace_lines_finished_total{outcome="failed"}[5m]))'},
            ),
            (
                "Lines of batches by topic that are refused",
                "short",
                {"lines": "sum(rate(headrace_lines_refused_total[5m]))"},
            ),
        ],
        "API": [
            ("Calls a second", "short", rate("http_server_request_duration_seconds_count", "http_route")),
            ("Latency", "s", quantiles("http_server_request_duration_seconds", "http_route")),
            ("Uploaded", "Bps", {"bytes": "sum(rate(headrace_files_stored_bytes_total[5m]))"}),
        ],
    },
    "workers": {
        "Workers": [
            ("Lines held", "short", {"{{instance}}": "headrace_lines_in_flight"}),
            ("Lines in the engine", "short", {"{{instance}}": "headrace_engine_lines"}),
            ("Window", "short", {"{{instance}}": "headrace_engine_window"}),
            ("A generation", "s", quantiles("gen_ai_server_request_duration_seconds", "gen_ai_request_model")),
            ("Records taken and not committed", "short", {"{{instance}} {{class}}": "headrace_offsets_uncommitted"}),
        ],
        "vLLM": [
            ("Running", "short", {"{{instance}}": "vllm:num_requests_running"}),
            ("Waiting", "short", {"{{instance}}": "vllm:num_requests_waiting"}),
            ("KV cache", "percentunit", {"{{instance}}": "vllm:kv_cache_usage_perc"}),
            ("Time to first token", "s", quantiles("vllm:time_to_first_token_seconds")),
            ("Time in the engine's queue", "s", quantiles("vllm:request_queue_time_seconds")),
        ],
    },
    "kafka": {
        "Lag": [
            ("Records that nobody has finished", "short", {"{{topic}}": "max by (topic) (headrace_group_lag)"}),
            ("Records taken and not committed", "short", {"{{instance}} {{class}}": "headrace_offsets_uncommitted"}),
        ],
        "Records": [
            ("Sent", "short", rate("messaging_client_sent_messages_total", "messaging_destination_name")),
            ("Consumed", "short", rate("messaging_client_consumed_messages_total", "messaging_destination_name")),
            ("Intake", "short", rate("headrace_intake_records_total", "outcome")),
        ],
    },
    "store": {
        "Segments": [
            ("To make a segment durable", "s", quantiles("headrace_segment_append_duration_seconds")),
            ("Written", "Bps", {"bytes": "sum(rate(headrace_segments_stored_bytes_total[5m]))"}),
            (
                "Segments a second",
                "short",
                {"segments": "sum(rate(headrace_segment_append_duration_seconds_count[5m]))"},
            ),
        ],
    },
}


def board(name: str) -> dict[str, Any]:
    """A board as Grafana imports it."""
    panels, y = list[dict[str, Any]](), 0
    for row, contents in BOARDS[name].items():
        panels.append({"type": "row", "title": row, "gridPos": {"h": 1, "w": GRID_WIDTH, "x": 0, "y": y}, "panels": []})
        y += 1
        for number, content in enumerate(contents):
            place = number % PANELS_IN_A_ROW
            panels.append(_panel(content, place, y + number // PANELS_IN_A_ROW * PANEL_HEIGHT))
        y += -(-len(contents) // PANELS_IN_A_ROW) * PANEL_HEIGHT
    for number, panel in enumerate(panels, start=1):
        panel["id"] = number
    datasource = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}
    return {
        "uid": f"headrace-{name}",
        "title": f"Headrace: {name}",
        "tags": ["headrace"],
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [datasource]},
        "panels": panels,
    }


def _panel(content: Panel, place: int, y: int) -> dict[str, Any]:
    title, unit, queries = content
    width, source = GRID_WIDTH // PANELS_IN_A_ROW, {"type": "prometheus", "uid": "${datasource}"}
    targets = [
        {"refId": chr(ord("A") + number), "expr": query, "legendFormat": legend, "datasource": source}
        for number, (legend, query) in enumerate(queries.items())
    ]
    return {
        "type": "timeseries",
        "title": title,
        "datasource": source,
        "gridPos": {"h": PANEL_HEIGHT, "w": width, "x": place * width, "y": y},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }


def main() -> None:
    """Write all boards."""
    folder = Path(__file__).parent
    for name in BOARDS:
        (folder / f"{name}.json").write_text(json.dumps(board(name), indent=2) + "\n")


if __name__ == "__main__":
    main()
