"""When is a line too large for a record, and what does the record say instead? PURE (kafka.md 5.4).

Logs are read by everybody, so what is large lies in the object store, written before the record that names it. Lines of
input files lie there already.
"""

import hashlib
from datetime import UTC, datetime, timedelta

import msgspec

from shared.messages import UnreadableRecord

# The largest request line and the largest result line.
REQUEST_BYTES_MAX, RESULT_BYTES_MAX = 16 * 1024 * 1024, 256 * 1024 * 1024
PREFIX = "claims/"
# Longer than a record may wait: requests are kept for a week and may have a window of 30 days, completions for 3 days.
REQUEST_DAYS, RESULT_DAYS = 38, 4


class Claim(msgspec.Struct, frozen=True):
    """Where the bytes are: in an object from byte `start` on, with their SHA-256 in hex."""

    key: str
    start: int
    size: int
    sha256: str

    def header(self) -> str:
        """As a header says it."""
        return msgspec.json.encode(self).decode()


def parse_claim(header: str) -> Claim:
    """A header's claim; raises UnreadableRecord."""
    try:
        claim = msgspec.json.decode(header, type=Claim)
    except msgspec.MsgspecError as error:
        raise UnreadableRecord(f"claim: {error}") from None
    if claim.start < 0 or not 0 <= claim.size <= RESULT_BYTES_MAX:
        raise UnreadableRecord(f"claim: {claim.size} bytes from byte {claim.start} on")
    return claim


def claim_of(value: bytes, key: str, start: int = 0) -> Claim:
    """The claim to bytes that lie in an object."""
    return Claim(key, start, len(value), hashlib.sha256(value).hexdigest())


def claim_key(value: bytes, now_s: float, days: int) -> str:
    """Named after its content, so that writing it twice is writing it once, and after the day on which it may go."""
    until = datetime.fromtimestamp(now_s, UTC) + timedelta(days=days)
    return f"{PREFIX}{until:%Y%m%d}/{hashlib.sha256(value).hexdigest()}"


def may_go(key: str, now_s: float) -> bool:
    """Whether an object under PREFIX is not needed any more."""
    return key.removeprefix(PREFIX).partition("/")[0] < f"{datetime.fromtimestamp(now_s, UTC):%Y%m%d}"


def check_claim(claim: Claim, value: bytes) -> bytes:
    """The bytes, if they are what was claimed; raises UnreadableRecord."""
    if len(value) != claim.size or hashlib.sha256(value).hexdigest() != claim.sha256:
        raise UnreadableRecord(f"claim: {claim.key} does not hold what it should")
    return value
