"""Which lines of an input file are refused, and why? PURE: lines in, problems out.

What one line must be is decided in `request_line`; here, what the lines of a file have to agree on.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from services.ingest.request_line import (
    BadLine,
    body_of,
    check_required,
    custom_id_of,
    members_of,
    not_json,
    shown,
    too_deep,
    unknown_model,
    url_of,
)
from shared.guesses import LINE_TOO_LARGE_CODE, PROBLEMS_MAX, TOO_MANY_INPUTS_CODE, TOO_MANY_LINES_CODE
from shared.jsonl import Line
from shared.messages import LineProblem

# Ids are remembered by 60 bits of their keyed hash, in two thirds of the memory of a short id and a tenth of a long
# one's; that two of a million differ and share theirs happens in one file of two million.
_SHORT_HASH = 2**60 - 1


@dataclass(frozen=True, slots=True)
class LineRules:
    """What the lines of one file have to fit.

    `queued_lines_max` is what the tenant may still have waiting, `embedding_inputs_max` holds for all lines together;
    None is no limit. With a `default_model` a line that names an unknown one is not refused: its workers answer it.
    """

    endpoint: str
    lines_max: int
    line_bytes_max: int
    queued_lines_max: int | None = None
    embedding_inputs_max: int | None = None
    several_models: bool = False
    default_model: str | None = None


class InputFile:
    """Validates one input file line by line and remembers what lines have to agree on."""

    def __init__(self, rules: LineRules, pool_of: Callable[[str], str | None]) -> None:
        """`pool_of` = the model whose workers serve a model, itself as a rule; None for an unknown one."""
        self._rules = rules
        self._pool_of = pool_of
        self._custom_ids: set[int] = set()
        self._named: str | None = None
        self._names_several = self._names_unknown = False
        self._pool_by_model: dict[str, str] = {}
        self._num_inputs = 0
        self.num_lines = 0
        self.problems: list[LineProblem] = []

    @property
    def model(self) -> str | None:
        """The model that all lines name, if it is one."""
        return None if self._names_several else self._named

    @property
    def pools(self) -> tuple[str, ...]:
        """The models whose workers get the lines, when that is not simply the one that is named."""
        if not self._pool_by_model:
            default = self._rules.default_model
            return (default,) if self._names_unknown and default is not None else ()
        pools = tuple(dict.fromkeys(self._pool_by_model.values()))
        return () if pools == (self.model,) else pools

    @property
    def served_by(self) -> dict[str, str]:
        """Models that another one's workers serve, and which."""
        return {model: pool for model, pool in self._pool_by_model.items() if model != pool}

    def check(self, line: Line) -> None:
        """Look at the next line; problems are collected in line order, the first 100 of them."""
        self.num_lines += 1
        if self.num_lines > self._rules.lines_max:
            return  # refused as a whole; nothing more is remembered
        problem = self._problem(line)
        if problem is not None and len(self.problems) < PROBLEMS_MAX:
            found = LineProblem(code=problem.code, message=problem.message, param=problem.param, line=line.number + 1)
            self.problems.append(found)

    def finish(self) -> tuple[LineProblem, ...]:
        """All problems, those of the file as a whole included."""
        if self.num_lines == 0:
            text = "The input file is empty. Please ensure that the batch contains at least one request."
            return (LineProblem(code="empty_file", message=text),)
        if self.num_lines > self._rules.lines_max:
            text = f"The input file has {self.num_lines} requests. A batch may have at most {self._rules.lines_max}."
            return (LineProblem(code=TOO_MANY_LINES_CODE, message=text), *self.problems[: PROBLEMS_MAX - 1])
        return (*self._limit_problems(), *self.problems)[:PROBLEMS_MAX]

    def _limit_problems(self) -> list[LineProblem]:
        rules, problems = self._rules, []
        if rules.queued_lines_max is not None and self.num_lines > rules.queued_lines_max:
            text = (
                f"Enqueued line limit reached: {self.num_lines} lines do not fit, {rules.queued_lines_max} more are "
                "allowed. Please try again once some in_progress batches have been completed."
            )
            problems.append(LineProblem(code="token_limit_exceeded", message=text))
        if rules.embedding_inputs_max is not None and self._num_inputs > rules.embedding_inputs_max:
            text = (
                f"The input file has {self._num_inputs} inputs. A batch may have at most {rules.embedding_inputs_max}."
            )
            problems.append(LineProblem(code=TOO_MANY_INPUTS_CODE, message=text))
        return problems

    def _problem(self, line: Line) -> BadLine | None:
        if line.value is None:
            return BadLine(LINE_TOO_LARGE_CODE, None, f"This line is larger than {self._rules.line_bytes_max} bytes.")
        try:
            self._look_at(line.value)
        except BadLine as problem:
            return problem
        except RecursionError:
            return too_deep()
        except msgspec.DecodeError:
            return not_json()
        return None

    def _look_at(self, value: bytes) -> None:
        members, endpoint = members_of(value), self._rules.endpoint
        check_required(members)
        self._remember_custom_id(custom_id_of(members))
        if url_of(members) != endpoint:
            text = "The URL provided for this request does not match the batch endpoint."
            raise BadLine("invalid_url", "url", text)
        body = body_of(members, endpoint)
        self._num_inputs += body.num_inputs
        self._agree_on_model(body.model)

    def _remember_custom_id(self, custom_id: str) -> None:
        short = hash(custom_id) & _SHORT_HASH
        if short in self._custom_ids:
            text = (
                f"The custom_id '{custom_id}' for this request is a duplicate of another request. "
                "The custom_id parameter must be unique for each request in a batch."
            )
            raise BadLine("duplicate_custom_id", "custom_id", text)
        self._custom_ids.add(short)

    def _agree_on_model(self, model: str) -> None:
        pool = self._pool_of(model)
        if pool is None and self._rules.default_model is None:
            raise unknown_model(model)
        others = self._pool_by_model
        if pool is not None and others and model not in others and not self._rules.several_models:
            text = (
                f"The model {shown(model)} for this request does not match the rest of the batch. "
                "Each batch must contain requests for a single model."
            )
            raise BadLine("mismatched_model", "body.model", text)
        if pool is not None:
            self._pool_by_model[model] = pool
        self._names_unknown |= pool is None
        self._names_several |= self._named not in (None, model)
        self._named = model
