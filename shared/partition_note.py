"""What does a worker write beside a committed offset? PURE codec.

The note tells which offsets above the committed one are finished, so that a kill repeats little and the dispatcher
knows how long the queue really is, and whether the owner let go of the partition or died with it. Kafka allows 4,096
bytes of metadata per partition; a map of finished offsets that does not fit is left out.
"""

import base64
import zlib
from collections.abc import Iterable

import msgspec

NOTE_CHARS_MAX = 4_000
_VERSION = 1


class PartitionNote(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of one partition. Offsets are absolute; suspects are unfinished offsets below `suspects_end`."""

    version: int = _VERSION
    held: bool = False
    deaths: int = 0
    handed_out_to: int = 0
    suspects_end: int = 0
    trial: tuple[int, ...] = ()
    is_alone: bool = False
    # The offset that ran alone, as often as its owner died.
    died_alone: tuple[int, ...] = ()
    condemned: tuple[int, ...] = ()
    finished: bytes = b""


_decoder = msgspec.msgpack.Decoder(PartitionNote)


def encode_note(note: PartitionNote) -> str:
    """The metadata string; without the map of finished offsets when it would be too long."""
    text = _pack(note)
    if len(text) > NOTE_CHARS_MAX:
        text = _pack(msgspec.structs.replace(note, finished=b""))
    if len(text) > NOTE_CHARS_MAX:  # a group of suspects that is too large to be named: all below its end are
        text = _pack(msgspec.structs.replace(note, finished=b"", trial=note.trial[-1:]))
    return text


def decode_note(text: str | None) -> PartitionNote | None:
    """The note in a metadata string, or None when there is none that this build can read."""
    if not text:
        return None
    try:
        note = _decoder.decode(zlib.decompress(base64.b64decode(text, validate=True)))
    except (ValueError, zlib.error, msgspec.MsgspecError):
        return None
    return note if note.version == _VERSION else None


def finished_bits(offsets: Iterable[int], base: int) -> bytes:
    """One bit per offset from `base` on, lowest bit first."""
    indexes = [offset - base for offset in offsets if offset >= base]
    bits = bytearray(max(indexes, default=-1) // 8 + 1)
    for index in indexes:
        bits[index >> 3] |= 1 << (index & 7)
    return bytes(bits)


def finished_offsets(bits: bytes, base: int) -> set[int]:
    """The offsets whose bit is set."""
    return {base + 8 * byte + bit for byte, value in enumerate(bits) for bit in range(8) if value & (1 << bit)}


def num_finished(note: PartitionNote | None) -> int:
    """How many offsets above the committed one are finished, as far as the note says."""
    return int.from_bytes(note.finished).bit_count() if note else 0


def _pack(note: PartitionNote) -> str:
    return base64.b64encode(zlib.compress(msgspec.msgpack.encode(note))).decode()
