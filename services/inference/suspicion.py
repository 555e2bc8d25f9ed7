"""What does the next owner of a partition make of the note that the last one left? PURE.

A record that kills the process is found by what was running at each death:

    deaths 0, 1   everything runs; from the first death on the note is written before records start
    deaths 2 …    suspects run in groups of a sixteenth, with nothing beside them; the note names the group
    a record that dies three times alone is condemned: it is not run again

Once alone would not do: a worker is also killed from outside, and three times in a row where many faults are made.
"""

import msgspec

from shared.partition_note import PartitionNote

GROUPS = 16
ISOLATE_AFTER_DEATHS = 2
CONDEMN_AFTER_DEATHS_ALONE = 3


def take_over(note: PartitionNote | None, window: int) -> PartitionNote:
    """What a new owner holds, given what the last one left. `window` = records that it may have had at once."""
    if note is None:
        return PartitionNote(held=True)
    kept = PartitionNote(
        held=True,
        deaths=note.deaths,
        suspects_end=note.suspects_end,
        died_alone=note.died_alone,
        condemned=note.condemned,
        finished=note.finished,
    )
    if not note.held:
        return kept
    if note.deaths >= ISOLATE_AFTER_DEATHS and not note.trial:
        # What died ran in another partition.
        return msgspec.structs.replace(kept, deaths=0, suspects_end=0, died_alone=())
    if note.trial and note.is_alone:
        died_alone = (*(offset for offset in note.died_alone if offset in note.trial), *note.trial)
        if len(died_alone) >= CONDEMN_AFTER_DEATHS_ALONE:
            condemned = (*note.condemned, *note.trial)
            return msgspec.structs.replace(kept, deaths=0, suspects_end=0, died_alone=(), condemned=condemned)
        kept = msgspec.structs.replace(kept, died_alone=died_alone)
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
