"""Are the segments in the store one chain, and did none change? Reads objects by itself; imports nothing of ours.

A chain that is walked from its start can look faultless although writes were lost beside it, so every object is hashed
when it is first seen, and in the end the objects must be the chain, each naming the one before it.
"""

import hashlib
import itertools
import json
import struct
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minio import Minio

from tests.chaos.verifier import Finding, Watch

_TRAILER = struct.Struct("<II8s")
LOOK_EVERY_S = 0.5

ListKeys = Callable[[], list[str]]
ReadObject = Callable[[str], bytes]


def in_folder(root: Path) -> tuple[ListKeys, ReadObject]:
    """The spool of a store in a folder."""

    def keys() -> list[str]:
        return sorted(str(p.relative_to(root)) for p in (root / "spool").rglob("?" * 20) if p.is_file())

    return keys, lambda key: (root / key).read_bytes()


def in_bucket(client: Minio, bucket: str) -> tuple[ListKeys, ReadObject]:
    """The spool of a store in a bucket."""

    def keys() -> list[str]:
        return sorted(
            str(o.object_name) for o in client.list_objects(bucket_name=bucket, prefix="spool/", recursive=True)
        )

    def read(key: str) -> bytes:
        response = client.get_object(bucket_name=bucket, object_name=key)
        try:
            return response.read()
        finally:
            response.close()
            response.release_conn()

    return keys, read


class SegmentWatch:
    """Hashes each segment when it appears, on a thread of its own."""

    def __init__(self, store: tuple[ListKeys, ReadObject], watch: Watch) -> None:
        self._keys, self._read = store
        self._watch = watch
        self._seen: set[str] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="segments", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join(30)

    def check(self) -> list[Finding]:
        """Look at everything once more: same bytes as when first seen, and one chain per partition."""
        chains: dict[str, list[tuple[str, bytes]]] = defaultdict(list)
        for key in self._keys():
            content = self._read(key)
            self._watch.see_content(key, content)
            chains[key.rpartition("/")[0]].append((key, content))
        return [finding for chain in chains.values() for finding in _check_chain(chain)]

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_EVERY_S):
            try:
                for key in self._keys():
                    if key not in self._seen:
                        self._watch.see_content(key, self._read(key))
                        self._seen.add(key)
            except Exception as error:
                if self._stopping.is_set():
                    print(f"  segments not seen: {error!r}", flush=True)


def _check_chain(chain: list[tuple[str, bytes]]) -> list[Finding]:
    found: list[Finding] = []
    for (key, content), (next_key, next_content) in itertools.pairwise(chain):
        try:
            footer, following = _footer(content), _footer(next_content)
        except (ValueError, struct.error):
            found.append(Finding("changed", key, "it or the next one is no segment"))
            continue
        if footer["next_offset"] != following["first_offset"]:
            found.append(Finding("changed", next_key, f"starts elsewhere than {key} ends"))
        elif following["previous_sha256"] != hashlib.sha256(content).hexdigest():
            found.append(Finding("changed", next_key, f"was built on another content of {key}"))
    return found


def _footer(segment: bytes) -> dict[str, Any]:
    _, num_bytes, _ = _TRAILER.unpack(segment[-_TRAILER.size :])
    return json.loads(segment[-_TRAILER.size - num_bytes : -_TRAILER.size])  # type: ignore[no-any-return]
