"""What does a worker write beside a committed offset, and what does the next owner make of it? PURE.

The note tells which offsets above the committed one are finished, so that a kill repeats little, and whether the owner
let go of the partition or died with it. A record that kills the process is found by what was running at each death:

    deaths 0, 1   everything runs; from the first death on the note is written before records start
    deaths 2 …    suspects run in groups of a sixteenth, with nothing beside them; the note names the group
    a group of one that dies is condemned: it is not run again

Kafka allows 4,096 bytes of metadata per partition; a map of finished offsets that does not fit is left out.
"""

import base64
import zlib
from collections.abc import Iterable

import msgspec

NOTE_CHARS_MAX = 4_000
GROUPS = 16
ISOLATE_AFTER_DEATHS = 2
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


def take_over(note: PartitionNote | None, window: int) -> PartitionNote:
    """What a new owner holds, given what the last one left. `window` = records that it may have had at once."""
    if note is None:
        return PartitionNote(held=True)
    kept = PartitionNote(
        held=True, deaths=note.deaths, suspects_end=note.suspects_end, condemned=note.condemned, finished=note.finished
    )
    if not note.held:
        return kept
    if note.deaths >= ISOLATE_AFTER_DEATHS and not note.trial:
        return msgspec.structs.replace(kept, deaths=0, suspects_end=0)  # what died ran in another partition
    if note.trial and note.is_alone:
        condemned = (*note.condemned, *note.trial)
        return msgspec.structs.replace(kept, deaths=0, suspects_end=0, condemned=condemned)
    if note.trial:
        suspects_end = max(note.trial) + 1
    elif note.deaths:
        suspects_end = note.handed_out_to  # written before they started, so it is exact
    else:
        suspects_end = note.handed_out_to + window
    return msgspec.structs.replace(kept, deaths=note.deaths + 1, suspects_end=suspects_end)


def group_size(num_suspects: int) -> int:
    """How many suspects run together."""
    return max(1, -(-num_suspects // GROUPS))


def _pack(note: PartitionNote) -> str:
    return base64.b64encode(zlib.compress(msgspec.msgpack.encode(note))).decode()
