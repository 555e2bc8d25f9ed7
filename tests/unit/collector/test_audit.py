"""A line is called lost by proof only."""

import pytest

from services.collector.audit import ATTEMPTS_MAX, UNPROVEN, Consumed, GiveUp, Redrive, Verdict, requests_of, verdict
from shared.messages import BatchDispatched, ShardRedriven


@pytest.mark.parametrize(
    ("committed", "folded_to", "end", "attempt", "expected"),
    [
        ({}, 9, None, 1, UNPROVEN),
        ({"0": 5}, 9, None, 1, UNPROVEN),
        ({"0": 6, "1": 3}, 9, None, 1, UNPROVEN),
        ({"0": 6, "1": 4}, 9, None, 1, Consumed()),
        ({"0": 6, "1": 4}, 9, 10, 1, UNPROVEN),
        ({"0": 6, "1": 4}, 10, 10, 1, Redrive(2)),
        ({"0": 5, "1": 4}, 10, 10, 1, UNPROVEN),
        ({"0": 6, "1": 4}, 10, 10, 3, Redrive(4)),
        ({"0": 6, "1": 4}, 10, 10, ATTEMPTS_MAX, GiveUp()),
    ],
)
def test_verdict(committed: dict[str, int], folded_to: int, end: int | None, attempt: int, expected: Verdict) -> None:
    redriven = ShardRedriven(attempt=attempt, num_lines=1) if attempt > 1 else None

    found = verdict(
        requests={"0": 5, "1": 3},
        committed=committed,
        folded_to=folded_to,
        end_when_consumed=end,
        redriven=redriven,
    )

    assert found == expected


def test_lines_sent_again_have_to_be_consumed_too() -> None:
    dispatch = BatchDispatched(total=2, next_line=2, highest_offsets={"0": 5, "1": 3})
    redriven = ShardRedriven(attempt=2, num_lines=1, highest_offsets={"1": 9, "2": 1})

    assert requests_of(dispatch, redriven) == {"0": 5, "1": 9, "2": 1}
