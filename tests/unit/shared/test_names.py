"""Identifiers, topics and partitions."""

import re

from hypothesis import given
from hypothesis import strategies as st

from shared import identifiers
from shared.settings import KafkaSettings
from shared.topics import Topics, completion_key, num_shards, partition_of, shard_of_line


def test_batch_ids_sort_by_age_and_have_the_shape_of_openai() -> None:
    early, late = (
        identifiers.batch_id(1_700_000_000_000_000_000, b"\xff" * 9),
        identifiers.batch_id(1_700_000_000_000_001_000, bytes(9)),
    )

    assert re.fullmatch(r"batch_[0-9a-f]{32}", early)
    assert early < late


def test_result_files_are_derived_from_the_batch() -> None:
    assert identifiers.result_file_id("batch_1", "output") == identifiers.result_file_id("batch_1", "output")
    assert identifiers.result_file_id("batch_1", "output") != identifiers.result_file_id("batch_1", "error")
    assert re.fullmatch(r"file-[1-9A-HJ-NP-Za-km-z]{22}", identifiers.result_file_id("b", "output"))


@given(st.text(min_size=1), st.text(min_size=1))
def test_pools_are_topic_names_and_never_shared(one: str, other: str) -> None:
    assert re.fullmatch(r"[a-z0-9._-]{0,130}", identifiers.pool_of_model(one))
    if one != other:
        assert identifiers.pool_of_model(one) != identifiers.pool_of_model(other)


def test_pool_of_a_hub_name_is_readable() -> None:
    assert identifiers.pool_of_model("tiny-chat") == "tiny-chat"
    assert identifiers.pool_of_model("Qwen/Qwen3-8B").startswith("qwen-qwen3-8b-")


@given(st.binary(), st.integers(1, 500))
def test_partition_is_in_range(key: bytes, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions


def test_shards_hold_fifty_thousand_lines() -> None:
    assert (shard_of_line(49_999), shard_of_line(50_000)) == (0, 1)
    assert [num_shards(n) for n in (0, 1, 50_000, 50_001)] == [1, 1, 1, 2]
    assert completion_key("batch_1", 2) == b"batch_1#2"


def test_topics_carry_the_prefix_and_the_layout_of_the_design() -> None:
    topics = Topics(KafkaSettings(topic_prefix="x."))

    names = {topic.name for topic in topics.all_for(("m", "m"))}

    assert names == {
        *("x.batches", "x.files", "x.workers", "x.keys", "x.completions", "x.control", "x.dlq"),
        *("x.intake", "x.admitted", "x.batch-events", "x.results", "x.requests.m.interactive", "x.requests.m.batch"),
    }
    assert topics.batches.config()["cleanup.policy"] == "compact"
    assert topics.completions.config()["retention.ms"] == str(3 * 24 * 3600 * 1000)
