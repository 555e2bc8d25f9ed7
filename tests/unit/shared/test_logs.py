"""What a line of the log says of a record that cannot be read, and of an exception."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from shared.logs import SHOWN_BYTES, of_record


def test_record_says_where_it_is_and_whose_and_no_more_than_fits() -> None:
    headers = [("batch-id", b"job"), ("request-id", b"x" * 10_000), ("other", b"y"), ("tenant", b"\xff")]
    headers.append(("traceparent", f"00-{'a' * 32}-{'b' * 16}-01".encode()))
    record = SimpleNamespace(topic="t", partition=1, offset=2, headers=headers)
    assert of_record(record) == {
        "topic": "t",
        "partition": 1,
        "offset": 2,
        "batch_name": "job",
        "request_id": "x" * SHOWN_BYTES,
        "tenant": "\ufffd",
        "trace_id": "a" * 32,
    }
    assert set(of_record(SimpleNamespace(topic="t", partition=1, offset=2, headers=()))) == {
        *("topic", "partition", "offset"),
    }


CRASH = """
import structlog
from shared.logs import set_up_logging
from shared.settings import TelemetrySettings

set_up_logging(TelemetrySettings(log_format={form!r}), "test")
prompt = "".join(["sec", "ret"])
try:
    1 / len(prompt[6:])
except ZeroDivisionError as error:
    structlog.get_logger().error("request failed", exc_info=error)
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_exception_is_told_without_the_values_of_variables(form: str) -> None:
    told = subprocess.run(
        [sys.executable, "-c", CRASH.format(form=form)], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert "ZeroDivisionError: division by zero" in told
    assert "secret" not in told
