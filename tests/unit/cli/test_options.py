"""Words of the command line."""

from pathlib import Path

import pytest

from cli.options import Engine, Model, check_counts, parse_engine, parse_kafka, parse_model, parse_store
from shared.errors import SetupError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vllm", Engine("vllm")),
        ("echo", Engine("echo")),
        ("openai:http://h:1/v1", Engine("openai", "http://h:1/v1")),
    ],
)
def test_engines(text: str, expected: Engine) -> None:
    assert parse_engine(text) == expected


def test_models() -> None:
    assert parse_model("Qwen/Qwen3-8B") == Model("Qwen/Qwen3-8B", "Qwen/Qwen3-8B")
    assert parse_model("small=/weights/x") == Model("small", "/weights/x")
    assert parse_model("/weights/tiny") == Model("tiny", "/weights/tiny")


def test_kafka_and_store(tmp_path: Path) -> None:
    for text in ("auto", "jvm", "memory", "host:9092", "a:1,b:2"):
        assert parse_kafka(text) == text
    assert parse_store("", tmp_path) == f"file://{tmp_path}/store"
    assert parse_store("s3://b", tmp_path) == "s3://b"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: parse_engine("vlm"),
        lambda: parse_engine("openai:host"),
        lambda: parse_model(""),
        lambda: parse_model("a="),
        lambda: parse_model("=b"),
        lambda: parse_kafka("host"),
        lambda: parse_kafka("host:port"),
        lambda: parse_store("dir", Path()),
        lambda: check_counts(-1, 1, 1),
        lambda: check_counts(1, 0, 1),
    ],
)
def test_wrong_words_say_what_is_expected(wrong: object) -> None:
    with pytest.raises(SetupError, match="expected"):
        wrong()  # type: ignore[operator]


def test_there_is_at_least_one_worker_per_model() -> None:
    assert [check_counts(n, 1, 2) for n in (0, 1, 3)] == [2, 2, 3]
