"""The first completion of a line wins; cancel and deadline decide where they stand in the log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.collector.ledger import Closed, Dropped, Kept, Ledger
from shared.messages import Usage
from shared.record_headers import CompletionHeaders


def line(number: int, total: int = 3, succeeded: bool = True, batch_id: str = "b") -> CompletionHeaders:
    return CompletionHeaders(
        kind="line", batch_id=batch_id, line=number, total=total, succeeded=succeeded, usage=Usage(1, 2)
    )


def end(kind: str, total: int = 3) -> CompletionHeaders:
    return CompletionHeaders(kind=kind, batch_id="b", total=total)


def test_full_bitmap_closes_the_batch() -> None:
    ledger = Ledger()

    verdicts = [ledger.apply(line(n, succeeded=n != 1)) for n in (2, 0, 1)]

    assert verdicts == [Kept(False), Kept(False), Kept(True)]
    shard = ledger.shards["b", 0]
    assert (shard.completed, shard.failed, shard.how_closed) == (2, 1, "completed")
    assert shard.usage == Usage(3, 6)


def test_repetition_is_dropped_whatever_it_says() -> None:
    ledger = Ledger()
    ledger.apply(line(0, succeeded=True))

    assert ledger.apply(line(0, succeeded=False)) == Dropped("duplicate")
    assert (ledger.shards["b", 0].completed, ledger.shards["b", 0].failed) == (1, 0)


def test_nothing_counts_after_the_cancel_record() -> None:
    ledger = Ledger()
    ledger.apply(line(0))

    assert ledger.apply(end("cancel")) == Closed("cancelled")
    assert ledger.apply(line(1)) == Dropped("after_close")
    assert ledger.apply(end("deadline")) == Dropped("after_close")
    assert ledger.shards["b", 0].num_answered == 1


def test_cancel_after_the_last_completion_loses() -> None:
    ledger = Ledger()
    for number in range(3):
        ledger.apply(line(number))

    assert ledger.apply(end("cancel")) == Dropped("after_close")
    assert ledger.shards["b", 0].how_closed == "completed"


def test_cancel_before_validation_closes_a_batch_without_lines() -> None:
    ledger = Ledger()

    assert ledger.apply(end("cancel", total=0)) == Closed("cancelled")
    assert ledger.apply(line(0)) == Dropped("after_close")


def test_big_batches_have_a_bitmap_per_shard() -> None:
    ledger = Ledger()

    ledger.apply(line(49_999, total=50_002))
    ledger.apply(line(50_000, total=50_002))
    verdict = ledger.apply(line(50_001, total=50_002))

    assert verdict == Kept(True)
    assert ledger.shards["b", 1].how_closed == "completed"
    assert ledger.shards["b", 0].how_closed is None


records = st.one_of(
    st.builds(line, st.integers(0, 7), st.just(8), st.booleans(), st.sampled_from(["b", "c"])),
    st.builds(end, st.sampled_from(["cancel", "deadline"]), st.just(8)),
)


@given(st.lists(records, max_size=60))
def test_counts_are_those_of_the_distinct_lines_before_the_end(log: list[CompletionHeaders]) -> None:
    ledger = Ledger()
    kept = [record for record in log if isinstance(ledger.apply(record), Kept)]

    for (batch_id, _), shard in ledger.shards.items():
        mine = [record for record in kept if record.batch_id == batch_id]
        assert len({record.line for record in mine}) == len(mine) == shard.num_answered
        assert shard.completed == sum(record.succeeded for record in mine)
        assert (shard.how_closed == "completed") == (shard.num_answered == 8)


@given(st.lists(records, max_size=60), st.data())
def test_replay_of_what_was_kept_gives_the_same_state(log: list[CompletionHeaders], data: st.DataObject) -> None:
    """Recovery: the chain holds a prefix's kept records; the rest of the log, from any point before, follows."""
    whole = Ledger()
    verdicts = [whole.apply(record) for record in log]
    cut = data.draw(st.integers(0, len(log)))

    recovered = Ledger()
    for record, verdict in zip(log[:cut], verdicts[:cut], strict=True):
        if not isinstance(verdict, Dropped):
            assert not isinstance(recovered.apply(record), Dropped)
    for record in log[cut:]:
        recovered.apply(record)

    assert {k: (v.completed, v.failed, v.how_closed, v.bitmap) for k, v in recovered.shards.items()} == {
        k: (v.completed, v.failed, v.how_closed, v.bitmap) for k, v in whole.shards.items()
    }


ROOM = 100


def grown_line(number: int) -> CompletionHeaders:
    return CompletionHeaders(kind="line", batch_id="g", line=number, total=ROOM, succeeded=True)


def sealed(num_lines: int) -> CompletionHeaders:
    return CompletionHeaders(kind="sealed", batch_id="g", total=ROOM, sealed_total=num_lines)


def test_growing_batch_is_not_full_before_it_is_sealed() -> None:
    ledger = Ledger()
    assert [ledger.apply(grown_line(n)) for n in (0, 2, 1)] == [Kept(False)] * 3

    assert ledger.apply(sealed(4)) == Kept(False)
    assert ledger.apply(sealed(3)) == Dropped("sealed")
    assert ledger.apply(grown_line(3)) == Kept(True)
    shard = ledger.shards["g", 0]
    assert (shard.how_closed, shard.num_lines, shard.batch_total) == ("completed", 4, 4)


@pytest.mark.parametrize("num_lines", [0, 2])
def test_seal_closes_a_batch_that_has_all_its_answers(num_lines: int) -> None:
    ledger = Ledger()
    for number in range(num_lines):
        ledger.apply(grown_line(number))

    assert ledger.apply(sealed(num_lines)) == Kept(True)
    assert ledger.apply(grown_line(num_lines)) == Dropped("after_close")


def test_sealed_batch_can_be_cut_short() -> None:
    ledger = Ledger()
    ledger.apply(grown_line(1))
    ledger.apply(sealed(3))

    cancel = CompletionHeaders(kind="cancel", batch_id="g", total=ROOM)
    assert ledger.apply(cancel) == Closed("cancelled")
    assert ledger.shards["g", 0].missing() == [0, 2]
