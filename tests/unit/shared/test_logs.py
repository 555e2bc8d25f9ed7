"""What a line of the log says of a record that cannot be read."""

from types import SimpleNamespace

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
