"""The segment codec: what goes in comes out, and foreign bytes are refused."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.messages import Usage
from shared.record_headers import CompletionHeaders
from shared.segment import TRAILER_BYTES, CorruptSegment, SegmentBuilder, flush_due, read_tail, tail_bytes

records = st.lists(
    st.tuples(
        st.builds(
            CompletionHeaders,
            kind=st.sampled_from(["line", "line", "cancel", "deadline"]),
            batch_id=st.sampled_from(["batch_a", "batch_b", "batch_ü"]),
            line=st.integers(0, 2**32 - 2),
            shard=st.integers(0, 80_000),
            total=st.just(2**32 - 1),
            succeeded=st.booleans(),
            usage=st.builds(Usage, st.integers(0, 2**40), st.integers(0, 2**40)),
        ),
        st.binary(max_size=40),
    ),
    max_size=30,
)


@given(records, st.integers(0, 2**60))
def test_round_trip(kept: list[tuple[CompletionHeaders, bytes]], first_offset: int) -> None:
    builder = SegmentBuilder("completions", 3, first_offset, "0" * 64)
    for record, value in kept:
        builder.add(record, value)

    segment = builder.build(first_offset + 100)

    needed = tail_bytes(segment.data[-TRAILER_BYTES:])
    footer, entries = read_tail(segment.data[-needed:])
    assert footer == segment.footer
    assert entries == segment.entries
    assert (footer.first_offset, footer.next_offset) == (first_offset, first_offset + 100)
    assert segment.sha256 == hashlib.sha256(segment.data).hexdigest()
    for (record, value), entry in zip(kept, entries, strict=True):
        assert segment.data[entry.position : entry.position + entry.length] == value
        replayed = entry.as_completion()
        assert (replayed.kind, replayed.shard_id) == (record.kind, record.shard_id)
        assert replayed.line == (record.line if record.kind == "line" else 0)
        assert replayed.succeeded == (record.succeeded and record.kind == "line")
    total = sum(record.usage.input_tokens for record, _ in kept)
    assert sum(batch.usage.input_tokens for batch in footer.batches) == total


def built() -> bytes:
    builder = SegmentBuilder("t", 0, 0, "0" * 64)
    builder.add(CompletionHeaders(kind="line", batch_id="b", line=0, total=1, succeeded=True), b"{}\n")
    return builder.build(1).data


@given(st.binary(max_size=100))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptSegment):
        read_tail(data)


@given(st.integers(0, 200), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_harmless_to_the_structure(position: int, value: int) -> None:
    data = bytearray(built())
    position %= len(data)
    data[position] = value
    try:
        needed = tail_bytes(bytes(data[-TRAILER_BYTES:]))
        read_tail(bytes(data[-needed:]))
    except (CorruptSegment, UnicodeDecodeError):
        pass  # refused


def test_truncated_segment_is_refused() -> None:
    with pytest.raises(CorruptSegment):
        read_tail(built()[10:-1])


@pytest.mark.parametrize(
    ("num_bytes", "age_s", "closes", "due"),
    [(0, 0.0, True, True), (100, 0.0, False, True), (99, 0.9, False, False), (1, 1.0, False, True)],
)
def test_flush_due(num_bytes: int, age_s: float, closes: bool, due: bool) -> None:
    assert flush_due(num_bytes=num_bytes, age_s=age_s, closes_batch=closes, max_bytes=100, max_age_s=1.0) is due
