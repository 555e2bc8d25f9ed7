"""A record that kills its process, and an engine that hangs: found, ended with a reason, neighbours unharmed."""

from pathlib import Path

from shared.settings import KafkaSettings
from shared.topics import Topics
from tests.e2e.stack import Stack, assert_each_line_once, chat_line, chat_lines, result_lines, submit, wait_for_end
from tests.e2e.test_rivals import read_all
from tests.providers import Server


def test_record_that_kills_the_process_ends_as_an_error_line_and_a_dead_letter(
    real_kafka: Server, data_dir: Path, topic_prefix: str
) -> None:
    env = {
        "HEADRACE_KAFKA__TOPIC_PREFIX": topic_prefix,
        "HEADRACE_INFERENCE__ECHO__FATAL_TEXT": "POISON",
        "HEADRACE_INFERENCE__ECHO__LATENCY_S": "0.02",
        "HEADRACE_INFERENCE__WINDOW": "64",
    }
    arguments = ["--engine", "echo", "--kafka", real_kafka.address, "--workers", "2"]
    with Stack(data_dir, arguments, env) as stack:
        client = stack.client()
        lines = chat_lines(400, "echo")
        lines[150] = chat_line("the-killer", "echo", "POISON")

        ended = wait_for_end(client, submit(client, lines).id, timeout_s=150)

        assert ended.status == "completed"
        assert_each_line_once(client, ended, lines)
        (error,) = result_lines(client, ended.error_file_id)
        assert error["custom_id"] == "the-killer"
        assert error["error"]["code"] == "worker_killed"
        (letter,) = read_all(real_kafka.address, Topics(KafkaSettings(topic_prefix=topic_prefix)).dlq.name, at_least=1)
        assert b"alone" in letter["dlq.reason"]
        assert "given up" not in stack.output()


def test_hung_engine_is_noticed_and_the_process_replaced(real_kafka: Server, data_dir: Path, topic_prefix: str) -> None:
    env = {
        "HEADRACE_KAFKA__TOPIC_PREFIX": topic_prefix,
        "HEADRACE_INFERENCE__ECHO__HANG_TEXT": "STANDSTILL",
        "HEADRACE_INFERENCE__ENGINE_SILENCE_S": "1.5",
        "HEADRACE_INFERENCE__WINDOW": "16",
    }
    with Stack(data_dir, ["--engine", "echo", "--kafka", real_kafka.address], env) as stack:
        client = stack.client()
        lines = chat_lines(60, "echo")
        lines[20] = chat_line("the-sleeper", "echo", "STANDSTILL")

        ended = wait_for_end(client, submit(client, lines).id, timeout_s=150)

        assert_each_line_once(client, ended, lines)
        assert [error["custom_id"] for error in result_lines(client, ended.error_file_id)] == ["the-sleeper"]
        assert "inference-0 died with code 70" in stack.output()
