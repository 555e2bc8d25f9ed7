"""What does the collector get for a line? An engine's answer becomes a finished line and its headers. PURE."""

import msgspec

from services.inference.engine import Answer
from shared.claim_check import RESULT_BYTES_MAX
from shared.error_codes import error_code_of
from shared.messages import Usage
from shared.openai_batch import answered_line, duplicated_error, unanswered_line
from shared.record_headers import CompletionHeaders, RequestHeaders
from shared.usage import usage_of

TOO_LARGE_CODE = "response_too_large"


class Completion(msgspec.Struct, frozen=True):
    """A finished line and what the collector needs to know of it."""

    value: bytes
    succeeded: bool
    usage: Usage
    error_code: str | None = None


_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def answered(
    headers: RequestHeaders, custom_id: str, request_id: str, answer: Answer, *, duplicate_errors: bool = False
) -> Completion:
    """The line for an engine's answer; one that does not fit into a record becomes an error line.

    With `duplicate_errors` the code and message of an HTTP failure are also the line's own `error`.
    """
    succeeded = answer.status == 200
    usage = usage_of(answer.body)
    if usage is None and not _is_object(answer.body):
        return unanswered(headers, custom_id, "invalid_response", "The engine's answer is not a JSON object.")
    value = answered_line(
        request_id=request_id,
        custom_id=custom_id,
        status=answer.status,
        body=answer.body,
        error=duplicated_error(answer.status, answer.body) if duplicate_errors and not succeeded else b"null",
    )
    if len(value) > RESULT_BYTES_MAX:
        message = f"The response of {len(value)} bytes is larger than the {RESULT_BYTES_MAX} that a line may have."
        return unanswered(headers, custom_id, TOO_LARGE_CODE, message)
    if succeeded:
        return Completion(value, True, usage or Usage())
    return Completion(value, False, Usage(), error_code_of(answer.status, answer.body))


def unanswered(headers: RequestHeaders, custom_id: str, code: str, message: str) -> Completion:
    """The error line for a request that got no answer."""
    value = unanswered_line(answer_id=headers.answer_id, custom_id=custom_id, code=code, message=message)
    return Completion(value, False, Usage(), code)


def completion_headers_for(
    headers: RequestHeaders, completion: Completion, claim: str = "", times: str = ""
) -> CompletionHeaders:
    """Headers of the completion's record; `claim` says where its line is if that is too large for it."""
    return CompletionHeaders(
        kind="line",
        batch_id=headers.batch_id,
        line=headers.line,
        total=headers.total,
        succeeded=completion.succeeded,
        usage=completion.usage,
        error_code=completion.error_code,
        traceparent=headers.traceparent,
        claim=claim,
        times=times,
    )


def _is_object(body: bytes) -> bool:
    try:
        _object_decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True
