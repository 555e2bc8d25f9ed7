"""How far a group is behind a partition."""

from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata

from shared.group_lag import behind
from shared.partition_note import PartitionNote, encode_note, finished_bits
from shared.settings import KafkaSettings
from shared.topics import Topics

TP = TopicPartition("t", 0)


def test_finished_records_above_the_committed_one_do_not_count() -> None:
    note = encode_note(PartitionNote(held=True, finished=finished_bits([12, 14], 11)))
    begins, ends = {TP: 5}, {TP: 20}
    assert behind(TP, begins, ends, {}) == 15
    assert behind(TP, begins, ends, {TP: OffsetAndMetadata(11, "")}) == 9
    assert behind(TP, begins, ends, {TP: OffsetAndMetadata(11, note)}) == 7
    assert behind(TP, begins, ends, {TP: OffsetAndMetadata(2, "")}) == 15, "what the log has dropped is not waited for"
    assert behind(TP, begins, {TP: 20}, {TP: OffsetAndMetadata(25, "")}) == 0, "ends were asked for before"


def test_every_topic_that_is_read_by_a_group_has_one() -> None:
    topics = Topics(KafkaSettings(topic_prefix="p."))
    found = {topic.name: topics.group_of(topic) for topic in topics.all_for(("m",))}
    assert {name: group for name, group in found.items() if group} == {
        **dict.fromkeys(("p.intake", "p.admitted", "p.batch-events"), "p.admission"),
        "p.completions": "p.collector",
        **{name: name for name in ("p.requests.m.batch", "p.requests.m.interactive")},
    }
