"""Two batches through the unchanged OpenAI SDK: embeddings of support tickets, and a reply to each of them.

    python examples/openai_batch.py --embedding-model all-MiniLM-L6-v2 --chat-model tiny-chat

Works against any server of the OpenAI Batch API. Exits with 0 only when every custom_id came back exactly once.
"""

import argparse
import json
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI
from openai.types import Batch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

TICKETS = Path(__file__).with_name("tickets.tsv")
NUM_PROMPTS = 240
# Which ticket of each topic the table shows.
SHOWN_PER_TOPIC = 18
POLL_S = 0.25
TERMINAL = {"completed", "failed", "expired", "cancelled"}
console = Console(width=max(100, Console().width))


@dataclass(frozen=True)
class Ticket:
    """A support ticket and its topic, which the model does not see."""

    topic: str
    text: str


def request_line(custom_id: str, url: str, body: dict[str, Any]) -> str:
    """One line of a batch input file."""
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body})


def run_batch(client: OpenAI, lines: list[str], endpoint: Any, title: str) -> Batch:
    """Upload, create, and poll with a progress bar until the batch is over."""
    file = client.files.create(file=("input.jsonl", "\n".join(lines).encode()), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")
    console.print(f"[bold]{title}[/bold]: {len(lines)} requests as {batch.id}")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(batch.status, total=len(lines))
        while batch.status not in TERMINAL:
            time.sleep(POLL_S)
            batch = client.batches.retrieve(batch.id)
            counts = batch.request_counts
            done = counts.completed + counts.failed if counts else 0
            progress.update(bar, completed=done, description=batch.status)
    return batch


def fetch_results(client: OpenAI, batch: Batch, lines: list[str], out: Path) -> dict[str, dict[str, Any]]:
    """Save the result files and check that every custom_id came back exactly once; answers by custom_id."""
    found: list[str] = []
    answers: dict[str, dict[str, Any]] = {}
    for kind, file_id in (("output", batch.output_file_id), ("error", batch.error_file_id)):
        if file_id is None:
            continue
        path = out / f"{batch.id}_{kind}.jsonl"
        path.write_bytes(client.files.content(file_id).content)
        for text in path.read_text().splitlines():
            entry = json.loads(text)
            found.append(entry["custom_id"])
            if kind == "output":
                answers[entry["custom_id"]] = entry["response"]["body"]
        console.print(f"  {kind} file: {path}", soft_wrap=True)
    expected = [json.loads(line)["custom_id"] for line in lines]
    if sorted(found) != sorted(expected):
        sys.exit(f"{batch.id}: {len(expected)} requests, {len(found)} results, {len(set(found))} of them distinct")
    report(batch, len(expected), len(answers))
    if batch.status != "completed" or len(answers) != len(expected):
        sys.exit(
            f"{batch.id} ended as {batch.status} with {len(expected) - len(answers)} failed requests: {batch.errors}"
        )
    return answers


def report(batch: Batch, num_expected: int, num_answers: int) -> None:
    """Counts and speed."""
    seconds = max(1, (batch.completed_at or batch.created_at) - batch.created_at)
    tokens = batch.usage.total_tokens if batch.usage else 0
    console.print(
        f"  {batch.status}: {num_answers} of {num_expected} answered, each custom_id exactly once; "
        f"{num_expected / seconds:.0f} rows/s, {tokens} tokens\n"
    )


def nearest_neighbours(tickets: list[Ticket], answers: dict[str, dict[str, Any]]) -> Table:
    """For one ticket of each topic, the ticket with another wording that is closest to it by cosine."""
    vectors = [normalised(answers[f"ticket-{n}"]["data"][0]["embedding"]) for n in range(len(tickets))]
    table = Table(
        "cosine", "ticket", "nearest ticket that shares no phrase with it", "its topic", title="Nearest neighbours"
    )
    by_topic: dict[str, list[int]] = {}
    for number, ticket in enumerate(tickets):
        by_topic.setdefault(ticket.topic, []).append(number)
    for numbers in by_topic.values():
        number = numbers[SHOWN_PER_TOPIC]
        ticket = tickets[number]
        others = [n for n, other in enumerate(tickets) if not shares_phrase(ticket.text, other.text)]
        best = max(others, key=lambda n: dot(vectors[number], vectors[n]))
        cosine = dot(vectors[number], vectors[best])
        table.add_row(f"{cosine:.2f}", ticket.text, tickets[best].text, tickets[best].topic)
    return table


def shares_phrase(one: str, other: str) -> bool:
    """Whether two tickets begin or end alike: such neighbours would be no surprise."""
    return one.split()[:3] == other.split()[:3] or one.split()[-3:] == other.split()[-3:]


def normalised(vector: list[float]) -> list[float]:
    """The vector at length 1."""
    length = math.sqrt(sum(x * x for x in vector)) or 1.0
    return [x / length for x in vector]


def dot(one: list[float], other: list[float]) -> float:
    """Cosine of two vectors of length 1."""
    return sum(a * b for a, b in zip(one, other, strict=True))


def main() -> None:
    """Run both batches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", default=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"))
    parser.add_argument("--embedding-model", required=True)
    parser.add_argument("--chat-model", required=True)
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for the result files")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    client = OpenAI(base_url=arguments.base_url, api_key=os.environ.get("OPENAI_API_KEY", "unused"))
    tickets = [Ticket(*line.split("\t", 1)) for line in TICKETS.read_text().splitlines()]

    lines = [
        request_line(f"ticket-{n}", "/v1/embeddings", {"model": arguments.embedding_model, "input": ticket.text})
        for n, ticket in enumerate(tickets)
    ]
    batch = run_batch(client, lines, "/v1/embeddings", f"Embeddings with {arguments.embedding_model}")
    console.print(nearest_neighbours(tickets, fetch_results(client, batch, lines, arguments.out)))

    lines = []
    for n, ticket in enumerate(tickets[:NUM_PROMPTS]):
        messages = [
            {"role": "system", "content": "You answer support tickets in one friendly sentence."},
            {"role": "user", "content": ticket.text},
        ]
        body = {"model": arguments.chat_model, "messages": messages, "max_tokens": 24}
        lines.append(request_line(f"reply-{n}", "/v1/chat/completions", body))
    batch = run_batch(client, lines, "/v1/chat/completions", f"Replies with {arguments.chat_model}")
    answers = fetch_results(client, batch, lines, arguments.out)
    console.print(f"  first ticket: {tickets[0].text}")
    console.print(f"  its reply:    {answers['reply-0']['choices'][0]['message']['content']!r}", markup=False)


if __name__ == "__main__":
    main()
