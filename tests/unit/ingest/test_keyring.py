"""Which key opens, and that secrets are nowhere."""

from typing import Any

import msgspec

from services.ingest.keyring import Keyring
from shared.api_keys import digest_of, masked, new_secret
from shared.messages import ApiKey, encode

SECRET = new_secret("k1", bytes(range(32)))


def key(**changes: Any) -> ApiKey:
    base: dict[str, Any] = {
        "id": "k1",
        "tenant": "t",
        "name": "n",
        "hint": masked(SECRET),
        "scopes": (),
        "created_at": 1,
    }
    return ApiKey(**(base | {"sha256": digest_of(SECRET)} | changes))


def test_only_a_valid_key_is_found() -> None:
    ring = Keyring()
    assert ring.is_empty
    ring.put(key(expires_at=10))

    assert ring.find(SECRET, 9.9) == key(expires_at=10)
    assert ring.find(SECRET, 10.0) is None
    assert ring.find(SECRET + "x", 1.0) is None
    assert ring.find("", 1.0) is None
    ring.put(key(revoked_at=5))
    assert ring.find(SECRET, 1.0) is None
    assert not ring.is_empty, "a revoked key still closes the API"


def test_key_that_changes_its_digest_or_goes_leaves_nothing() -> None:
    ring = Keyring()
    ring.put(key())
    ring.put(key(sha256=digest_of("other")))
    assert ring.find(SECRET, 1.0) is None
    assert ring.find("other", 1.0) is not None
    ring.remove("k1")
    assert ring.is_empty
    assert ring.find("other", 1.0) is None


def test_record_has_no_secret() -> None:
    record = encode(key())

    assert SECRET.encode() not in record
    assert SECRET[-20:].encode() not in record
    assert msgspec.json.decode(record, type=ApiKey) == key()
    assert masked("short") == "***"
