"""The collector's view of open batches."""

from services.collector.open_batches import OpenBatches
from shared.messages import BatchClosed, BatchCreated, BatchDispatched, ShardRedriven, encode
from shared.settings import KafkaSettings
from shared.topics import Topics

CREATED = BatchCreated(id="b", endpoint="e", input_file_id="f", completion_window="24h", created_at=1, expires_at=2)
CLOSED = BatchClosed(status="completed", finalizing_at=1, closed_at=2, total=1, completed=1, failed=0, not_run=0)


def test_facets_in_any_order_add_up() -> None:
    batches = OpenBatches(Topics(KafkaSettings()))
    dispatch, redriven = BatchDispatched(total=3, next_line=3), ShardRedriven(attempt=2, num_lines=1)

    batches.apply("b/redriven/7", encode(redriven))
    batches.apply("b/dispatch", encode(dispatch))
    batches.apply("b/created", encode(CREATED))

    found = batches.open["b"]
    assert (found.created, found.dispatch) == (CREATED, dispatch)
    assert found.redriven_of(7) == redriven
    assert found.redriven_of(0) is None


def test_closed_batch_is_forgotten_and_stays_closed() -> None:
    batches = OpenBatches(Topics(KafkaSettings()))
    batches.apply("b/created", encode(CREATED))

    batches.apply("b/closed", encode(CLOSED))
    batches.apply("b/dispatch", encode(BatchDispatched(total=3)))
    batches.apply("c/created", None)
    batches.apply("c/created", b"no facet")

    assert batches.open == {}
    assert batches.closed == {"b"}
