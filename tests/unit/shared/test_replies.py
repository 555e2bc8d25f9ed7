"""Answers to topics that are not ours are not lost, and hold nobody up."""

import asyncio

import pytest

from shared import replies
from shared.errors import UnavailableError
from shared.publisher import OutgoingRecord
from shared.record_headers import RequestHeaders
from shared.replies import Replies
from shared.result_records import is_reply, result_record
from shared.settings import KafkaSettings
from shared.topics import Topics

TOPICS = Topics(KafkaSettings())


class FakePublisher:
    """Takes everything but what goes to topics that are away or that never answer."""

    def __init__(self) -> None:
        self.sent: list[OutgoingRecord] = []
        self.away = {"gone"}
        self.tries = 0

    async def send_all(self, records: list[OutgoingRecord]) -> None:
        self.tries += 1
        topic = records[0].topic
        if topic in self.away:
            raise UnavailableError(topic)
        if topic == "silent":
            await asyncio.Event().wait()
        self.sent += records


def answer(topic: str, request: str) -> OutgoingRecord:
    headers = RequestHeaders(request=request, deadline_s=0, reply_topic=topic)
    return result_record(TOPICS, headers, b"{}\n", None)


@pytest.mark.parametrize("topic", ["gone", "silent"])
async def test_answer_falls_back_to_results_and_the_topic_rests(topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "REPLY_TIMEOUT_S", 0.01)
    publisher = FakePublisher()
    subject = Replies(TOPICS, publisher)  # type: ignore[arg-type]

    await subject.send_all([answer(topic, "a"), answer("fine", "b"), answer(topic, "c")])
    await subject.send_all([answer(topic, "d")])

    assert {(record.topic, record.key) for record in publisher.sent} == {
        (TOPICS.results.name, b"a"),
        ("fine", b"b"),
        (TOPICS.results.name, b"c"),
        (TOPICS.results.name, b"d"),
    }
    assert publisher.tries == 4, "not tried again so soon"
    assert all(record.partition is not None for record in publisher.sent if record.topic == TOPICS.results.name)


def test_answers_without_a_reply_topic_are_ours() -> None:
    assert not is_reply(answer("", "a"))
    assert not is_reply(answer(TOPICS.results.name, "a"))
    assert is_reply(answer("other", "a"))
    assert answer("", "a").value == b"{}"
    headers = dict(answer("", "a").headers)
    assert (headers["request-id"], headers["outcome"]) == (b"a", b"completed")
