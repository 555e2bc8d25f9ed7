"""Completion windows as clients write them (contract 10)."""

import pytest

from services.ingest.windows import window_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("24h", 86_400), ("5s", 5), ("30m", 1_800), ("6min", 360), ("48h", 172_800), ("7d", 604_800), ("1 w", 604_800)],
)
def test_windows_in_use(text: str, seconds: int) -> None:
    assert window_s(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "h", "24", "-1h", "1.5h", "24 hours", "9999999999s", "24H", "٣h"])
def test_anything_else_is_none(text: str) -> None:
    assert window_s(text) is None
