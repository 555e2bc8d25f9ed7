"""Where nobody has shown what OpenAI answers: our choices, all in this table, to be corrected here. PURE.

Each line names the rule of the contract that leaves it open. Behaviour that has no value to name: unknown form and body
fields are ignored (gateways add their own); no line of a refused batch counts, so its total is 0; a batch that is
cancelled before anything ran has no output file.
"""

from typing import Final

# Validation (section 4).
PROBLEMS_MAX: Final = 100
TOO_MANY_LINES_CODE: Final = "too_many_requests"
TOO_MANY_INPUTS_CODE: Final = "too_many_inputs"
LINE_TOO_LARGE_CODE: Final = "line_too_large"
NOT_AN_OBJECT_CODE: Final = "invalid_request"
WRONG_TYPE_CODE: Final = "invalid_type"
WRONG_METHOD_CODE: Final = "invalid_value"
CUSTOM_ID_BYTES_MAX: Final = 512

# Files and lines (sections 2.2 and 5).
RESULT_FILENAME: Final = "{batch_id}_{kind}.jsonl"
CANCELLED_MESSAGE: Final = "This request was not executed because the batch was cancelled."

# Errors (section 6.1): status, and what goes with it.
UNKNOWN_AFTER_STATUS: Final = 404
WRONG_PURPOSE_MESSAGE: Final = "Input file must have purpose 'batch', got '{purpose}'"
TOO_MANY_CODE: Final = "rate_limit_exceeded"
MISSING_SCOPE_CODE: Final = "missing_scope"
IDEMPOTENCY_CONFLICT_CODE: Final = "idempotency_conflict"

# Uploads (section 1.2).
REPEATED_PART_MESSAGE: Final = "A part may be listed only once."
