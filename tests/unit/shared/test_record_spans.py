"""Ids of spans are drawn many at once, and none comes twice, in no process."""

import subprocess
import sys

from opentelemetry.trace import SpanKind

from shared.record_spans import IDS_AT_ONCE, begin_span

# A child begins with a copy of all that its parent has drawn.
FORKS = """
import os
from opentelemetry.trace import SpanKind
from shared.record_spans import begin_span
begin = lambda: begin_span("s", SpanKind.CLIENT, dict).span_id
begin()
child = os.fork()
if child:
    os.waitpid(child, 0)  # or their texts mix
print(begin(), flush=True)
"""


def test_no_id_comes_twice() -> None:
    spans = [begin_span("s", SpanKind.CLIENT, dict) for _ in range(2 * IDS_AT_ONCE)]
    assert len({span.span_id for span in spans}) == len({span.trace_id for span in spans}) == len(spans)
    assert {(len(span.trace_id), len(span.span_id)) for span in spans} == {(32, 16)}
    assert all(int(span.trace_id, 16) and int(span.span_id, 16) for span in spans)


def test_child_does_not_use_its_parents_ids() -> None:
    found = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=60, check=True)
    ids = found.stdout.split()
    assert len(ids) == len(set(ids)) == 2
