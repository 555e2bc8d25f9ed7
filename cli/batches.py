"""`headrace batches`: make them, watch them, get what came out. SHELL."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.api_client import NOT_COMPLETED, UNREACHABLE, ApiClient, CallFailed, api_client
from cli.files import Data, Shown, Url, upload
from cli.show import Output, show_list, show_one, tell

OVER = ("completed", "failed", "expired", "cancelled")
RECONNECT_S = 1.0
# A stream that breaks is opened again so often before that counts as a failure.
RECONNECTS_MAX = 30
COLUMNS = (
    "id",
    "status",
    "request_counts.total",
    "request_counts.completed",
    "request_counts.failed",
    "created_at",
    "model",
    "endpoint",
)
DETAILS = (
    *COLUMNS,
    "in_progress_at",
    "completed_at",
    "expires_at",
    "input_file_id",
    "output_file_id",
    "error_file_id",
    "errors",
    "metadata",
    "x_headrace.queue_position",
    "x_headrace.lines_per_second",
    "x_headrace.estimated_completion_at",
    "x_headrace.top_errors",
    "x_headrace.without_workers",
    "x_headrace.name",
    "x_headrace.part",
    "x_headrace.received",
    "x_headrace.declared",
)

STORY = (
    "batch_id",
    "custom_id",
    "line",
    "status",
    "error_code",
    "because",
    "worker",
    "attempt",
    "tries",
    "redelivered",
    "trace_id",
    "trace_url",
    "seconds.before_dispatch",
    "seconds.in_topic",
    "seconds.beside_engine",
    "seconds.in_engine",
    "seconds.engine_queue",
    "seconds.prefill",
    "seconds.decode",
    "seconds.publishing",
    "seconds.collecting",
)

app = typer.Typer(no_args_is_help=True, help="Batches: create, watch, cancel, results.")


@app.command("create")
def create(
    source: Annotated[str, typer.Argument(metavar="FILE", help="A JSON Lines file, or the id of an uploaded one.")],
    endpoint: Annotated[str, typer.Option(help="Where its lines are posted to; the first line's url by default.")] = "",
    window: Annotated[str, typer.Option(help="Until its deadline.")] = "24h",
    metadata: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; repeatable.")] = None,
    priority: Annotated[int, typer.Option(help="Among the tenant's own batches, higher first.")] = 0,
    wait: Annotated[bool, typer.Option("--wait", help="Watch it until it has ended.")] = False,
    url: Url = "",
    data: Data = Path(".headrace"),
    output: Shown = Output.TABLE,
) -> None:
    """Upload a file, unless it is one already, and make a batch of it."""
    with api_client(url, data) as api:
        file_id = source if source.startswith("file-") and not Path(source).exists() else ""
        body: dict[str, Any] = {
            "endpoint": endpoint or (_first_url(Path(source)) if not file_id else ""),
            "input_file_id": file_id or upload(api, Path(source), "batch")["id"],
            "completion_window": window,
            "metadata": dict(pair.partition("=")[::2] for pair in metadata or ()) or None,
            "priority": priority,
        }
        if not body["endpoint"]:
            raise typer.BadParameter("--endpoint is needed: neither it nor the first line names one")
        batch = api.json("POST", "/batches", json=body)
        if wait:
            tell(batch["id"])
            _end(_watch(api, batch["id"]), output)
        show_one(batch, DETAILS, output)


@app.command("get")
def get(batch_id: str, url: Url = "", data: Data = Path(".headrace"), output: Shown = Output.TABLE) -> None:
    """One batch as it is now."""
    with api_client(url, data) as api:
        response = api.call("GET", f"/batches/{batch_id}")
        if warning := response.headers.get("x-headrace-warning"):
            tell(f"warning: {warning}")
        show_one(response.json(), DETAILS, output)


@app.command("list")
def list_batches(
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 20,
    status: Annotated[str, typer.Option(help="Only those in this state, out of the newest ones.")] = "",
    url: Url = "",
    data: Data = Path(".headrace"),
    output: Shown = Output.TABLE,
) -> None:
    """Batches, newest first."""
    with api_client(url, data) as api:
        found = [batch for batch in api.pages("/batches", limit) if status in ("", batch["status"])]
    show_list(found, COLUMNS, output)


@app.command("watch")
def watch(batch_id: str, url: Url = "", data: Data = Path(".headrace"), output: Shown = Output.TABLE) -> None:
    """Follow a batch until it has ended; exit code 3 when it did not complete."""
    with api_client(url, data) as api:
        _end(_watch(api, batch_id), output)


@app.command("cancel")
def cancel(batch_id: str, url: Url = "", data: Data = Path(".headrace"), output: Shown = Output.TABLE) -> None:
    """Wish for an end; what is answered by then stays."""
    with api_client(url, data) as api:
        show_one(api.json("POST", f"/batches/{batch_id}/cancel"), DETAILS, output)


@app.command("retry")
def retry(batch_id: str, url: Url = "", data: Data = Path(".headrace"), output: Shown = Output.TABLE) -> None:
    """A new batch of the lines that failed, expired or were cancelled."""
    with api_client(url, data) as api:
        show_one(api.json("POST", f"/batches/{batch_id}/retry"), DETAILS, output)


@app.command("results")
def results(
    batch_id: str,
    errors: Annotated[bool, typer.Option("--errors", help="The lines that failed instead.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Finished lines of either kind as they come.")] = False,
    url: Url = "",
    data: Data = Path(".headrace"),
) -> None:
    """The lines that came out, as JSON Lines."""
    with api_client(url, data) as api:
        if follow:
            for line in api.lines(f"/batches/{batch_id}/results"):
                print(line, flush=True)
            return
        batch = api.json("GET", f"/batches/{batch_id}")
        file_id = batch["error_file_id" if errors else "output_file_id"]
        if batch["status"] not in OVER:
            raise CallFailed(f"{batch_id} is {batch['status']}: --follow gives what is finished so far", NOT_COMPLETED)
        if file_id is None:
            tell(f"{batch_id} has no {'error' if errors else 'output'} file")
            return
        for line in api.lines(f"/files/{file_id}/content"):
            print(line)


@app.command("why")
def why(
    batch_id: str,
    custom_id: str,
    url: Url = "",
    data: Data = Path(".headrace"),
    output: Shown = Output.TABLE,
) -> None:
    """Why one line took so long: when it was where, and which part took how long."""
    with api_client(url, data) as api:
        found = api.json("GET", f"/batches/{batch_id}/lines/{quote(custom_id, safe='')}")
    show_one(found, STORY, output)
    if output is Output.TABLE:
        show_list(_with_waits(found["steps"]), ("step", "time", "after_s", "where"), output)


def _with_waits(steps: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Steps with the seconds since the one before that is known."""
    before: float | None = None
    for step in steps:
        at = step["at"]
        after = None if at is None or before is None else f"{at - before:+.3f}"
        where = ", ".join(f"{name} {value}" for name, value in step.items() if name not in ("step", "at"))
        yield {"step": step["step"], "time": _time_of_day(at), "after_s": after, "where": where}
        before = before if at is None else at


def _time_of_day(at: float | None) -> str:
    return "" if at is None else f"{time.strftime('%H:%M:%S', time.localtime(at))}.{int(at * 1000) % 1000:03d}"


def _first_url(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as lines:
            return str(json.loads(lines.readline()).get("url", ""))
    except (OSError, ValueError, AttributeError) as error:
        raise typer.BadParameter(f"{path}: {error}") from None


def _end(batch: dict[str, Any], output: Output) -> None:
    show_one(batch, DETAILS, output)
    raise typer.Exit(0 if batch["status"] == "completed" else NOT_COMPLETED)


def _watch(api: ApiClient, batch_id: str) -> dict[str, Any]:
    """The batch as it ended; its progress on standard error, where that is a terminal."""
    batch: dict[str, Any] = api.json("GET", f"/batches/{batch_id}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(batch["status"], total=None)
        for batch in _snapshots(api, batch_id):
            counts = batch["request_counts"]
            done = counts["completed"] + counts["failed"]
            progress.update(task, description=batch["status"], total=counts["total"] or None, completed=done)
    return batch


def _snapshots(api: ApiClient, batch_id: str) -> Iterator[dict[str, Any]]:
    """A batch whenever it changes, up to its end; a stream that breaks is gone on with."""
    last_id = ""
    for attempt in range(RECONNECTS_MAX):
        try:
            for line in api.lines(f"/batches/{batch_id}/events", headers={"last-event-id": last_id}):
                name, _, value = line.partition(": ")
                if name == "id":
                    last_id = value
                elif name == "event" and value == "end":
                    return
                elif name == "data":
                    yield json.loads(value)
        except CallFailed as failure:
            if failure.exit_code != UNREACHABLE or attempt + 1 == RECONNECTS_MAX:
                raise
        time.sleep(RECONNECT_S)
