"""How long is a completion window? PURE: `24h`, or where free windows are allowed a number and a unit."""

import re

OPENAI_WINDOW = "24h"
_WINDOW = re.compile(r"([0-9]{1,9})\s*(s|sec|m|min|h|d|w)")
_UNIT_S = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def window_s(text: str) -> int | None:
    """Seconds of a window like `5s`, `30m`, `6min`, `48h` or `7d`; None for anything else, zero included."""
    found = _WINDOW.fullmatch(text)
    return int(found[1]) * _UNIT_S[found[2]] or None if found else None
