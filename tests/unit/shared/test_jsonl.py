"""Lines of a JSONL stream, whatever the chunks are."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.jsonl import Line, LineReader


def read(chunks: list[bytes], max_line_bytes: int = 1000) -> list[Line]:
    reader = LineReader(max_line_bytes)
    lines = [line for chunk in chunks for line in reader.feed(chunk)]
    return lines + list(reader.finish())


def values(content: bytes, max_line_bytes: int = 1000) -> list[bytes | None]:
    return [line.value for line in read([content], max_line_bytes)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"a", [b"a"]),
        (b"a\n", [b"a"]),
        (b"a\r\nb\r\n", [b"a", b"b"]),
        (b"\xef\xbb\xbfa\nb", [b"a", b"b"]),
        (b"a\n\xef\xbb\xbfb", [b"a", b"\xef\xbb\xbfb"]),
        (b"a\n\n \t\r\n\n", [b"a"]),
        (b"\n\n", []),
        (b"a\n\nb\n", [b"a", b"", b"b"]),
        (b"\xef\xbb\xbf\n", []),
    ],
)
def test_lines_of(content: bytes, expected: list[bytes]) -> None:
    assert values(content) == expected


def test_line_over_the_limit_is_numbered_and_not_kept() -> None:
    lines = read([b"ok\n", b"x" * 50, b"x" * 50 + b"\nok\n" + b"y" * 30], max_line_bytes=20)

    assert [(line.number, line.value) for line in lines] == [(0, b"ok"), (1, None), (2, b"ok"), (3, None)]


@given(
    lines=st.lists(st.binary(max_size=30).filter(lambda b: b.strip(b" \t\r\n") and b"\n" not in b and b[-1:] != b"\r")),
    endings=st.lists(st.sampled_from([b"\n", b"\r\n"]), min_size=1),
    cuts=st.lists(st.integers(0, 400)),
)
def test_chunks_do_not_matter(lines: list[bytes], endings: list[bytes], cuts: list[int]) -> None:
    content = b"".join(line + endings[n % len(endings)] for n, line in enumerate(lines))
    bounds = sorted({min(cut, len(content)) for cut in cuts} | {0, len(content)})
    chunks = [content[a:b] for a, b in itertools.pairwise(bounds)]

    found = read(chunks)

    expected = [lines[0].removeprefix(b"\xef\xbb\xbf"), *lines[1:]] if lines else []
    if expected and not expected[0].strip(b" \t\r\n"):
        return  # a first line of nothing but a byte-order mark is blank
    assert [line.value for line in found] == expected
    assert [line.number for line in found] == list(range(len(expected)))


@given(
    lines=st.lists(st.binary(min_size=1, max_size=20).filter(lambda b: b.strip() and b"\n" not in b), min_size=2),
    data=st.data(),
)
def test_reading_can_resume_after_any_line(lines: list[bytes], data: st.DataObject) -> None:
    content = b"\n".join(lines) + b"\n"
    whole = read([content])
    resume_at = data.draw(st.sampled_from(whole[:-1]))

    reader = LineReader(1000, resume_at.number + 1, resume_at.end)
    rest = [*reader.feed(content[resume_at.end :]), *reader.finish()]

    assert rest == whole[resume_at.number + 1 :]
