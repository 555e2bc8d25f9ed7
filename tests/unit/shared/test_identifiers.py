"""Ids that must come out the same, and ids that must not."""

from shared.identifiers import request_id, result_file_id


def test_request_s_id_depends_on_batch_and_line_alone() -> None:
    assert request_id("b", 1) == request_id("b", 1)
    assert len({request_id("b", 1), request_id("b", 2), request_id("c", 1), request_id("b#1", 1)}) == 4
    assert len(request_id("b", 1)) == len("batch_req_") + 32


def test_result_files_are_named_after_their_batch() -> None:
    assert result_file_id("b", "output") == result_file_id("b", "output") != result_file_id("b", "error")
