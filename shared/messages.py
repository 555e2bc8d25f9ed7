"""What do records say? Facets, files, keys and heartbeats as JSON values. PURE.

Every value carries `schema_version`; a reader parks what it does not know instead of guessing.
"""

from typing import Final

import msgspec

SCHEMA_VERSION: Final = 1

# A line number has four bytes in a segment.
LINES_MAX: Final = 2**32 - 1


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of every JSON value on a topic."""

    schema_version: int = SCHEMA_VERSION


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one line, or summed over many."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    def plus(self, other: "Usage") -> "Usage":
        """Sum, member by member."""
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


class LineProblem(msgspec.Struct, frozen=True):
    """One entry of `batch.errors.data`; `line` is 1-based, as the wire shows it."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class StoredFile(Message, frozen=True, kw_only=True):
    """A File object and the key of its bytes; the value on `files`.

    `created_ns` tells apart what was created in the same second, in the order of lists. A file that was `deleted` is as
    good as gone, but its bytes stay while an open batch reads them.
    """

    id: str
    purpose: str
    filename: str
    bytes: int
    created_at: int
    object_key: str
    expires_at: int | None = None
    tenant: str = "default"
    created_ns: int = 0
    deleted: bool = False

    def is_visible(self, tenant: str, now_s: float) -> bool:
        """Whether the tenant may know of it; to others, and after its end, it is like an unknown one."""
        return self.tenant == tenant and not self.is_over(now_s)

    def is_over(self, now_s: float) -> bool:
        """Whether it was deleted or has expired."""
        return self.deleted or (self.expires_at is not None and self.expires_at <= now_s)


class ApiKey(Message, frozen=True, kw_only=True):
    """A key of the API; the value on `keys`. The secret itself is nowhere, only its SHA-256 in hex.

    `hint` is what a list shows of the secret. Times are Unix seconds.
    """

    id: str
    tenant: str
    name: str
    sha256: str
    hint: str
    scopes: tuple[str, ...]
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None
    requests_per_minute: int | None = None

    def is_valid(self, now_s: float) -> bool:
        """Whether it opens anything now."""
        return self.revoked_at is None and (self.expires_at is None or now_s < self.expires_at)


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """What is special about a batch whose lines come one by one, through the log.

    Its producer calls it `name`. It may have up to `room` lines; more begin the next part under the same name, as do
    lines beyond `roll_lines`, or `roll_s` seconds later (0 = no such limit). `lines_before` came in earlier parts.
    """

    name: str
    room: int
    part: int = 0
    lines_before: int = 0
    roll_lines: int = 0
    roll_s: int = 0

    @property
    def rolls(self) -> bool:
        """Whether it was asked for that it becomes a row of parts."""
        return self.roll_lines > 0 or self.roll_s > 0


class BatchCreated(Message, frozen=True, kw_only=True, tag="created"):
    """Facet `created`, and the manifest object in the store. Written once, by the api or by admission.

    `input_file` repeats the File object, so that the store alone tells what was asked for. `priority` orders a
    tenant's own batches, higher first; `fingerprint` is the hash of what was asked for, which finds repeated calls.
    """

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    metadata: dict[str, str] | None = None
    tenant: str = "default"
    output_expires_after_s: int | None = None
    priority: int = 0
    fingerprint: str | None = None
    traceparent: str | None = None
    input_file: StoredFile | None = None
    retry_of: str | None = None
    # Of a batch whose lines come one by one, and not as a file.
    growth: Growth | None = None

    def record_total(self, total: int) -> int:
        """What records about its lines say of how many there are: all, or the most that there can be."""
        return self.growth.room if self.growth is not None else total


class BatchCancelRequested(Message, frozen=True, kw_only=True, tag="cancel"):
    """Facet `cancel`: the wish. The decision is the record on `completions`."""

    cancelling_at: int


class BatchDispatched(Message, frozen=True, kw_only=True, tag="dispatch"):
    """Facet `dispatch`: refused with `errors`, or in progress with `total` and a cursor.

    `model` is the one that all lines name, if it is one. `next_line` and `next_byte` say where in the input file to go
    on, and `ahead` which lines behind that were dispatched too, one bit for each. `highest_offsets` is the last request
    offset per `topic/partition`, which the audit needs to know that everything was consumed. `answered_key` names an
    object with one bit per line: those that were answered in an earlier log and are not dispatched again. `pools` are
    the models whose workers get the lines, when that is not simply `model`, and `served_by` says so of each model that
    another one's workers serve, as adapters are; a line that names none of them goes to the first.
    """

    failed_at: int | None = None
    errors: tuple[LineProblem, ...] = ()
    in_progress_at: int | None = None
    total: int = 0
    model: str | None = None
    next_line: int = 0
    next_byte: int = 0
    ahead: bytes = b""
    highest_offsets: dict[str, int] = msgspec.field(default_factory=dict)
    answered_key: str | None = None
    pools: tuple[str, ...] = ()
    served_by: dict[str, str] = msgspec.field(default_factory=dict)
    # Lines may still be added; `total` is then how many came so far.
    growing: bool = False

    @property
    def num_dispatched(self) -> int:
        """Lines that are on the request topic, or were answered in an earlier log."""
        return self.next_line + int.from_bytes(self.ahead).bit_count()

    @property
    def dispatched_end(self) -> int:
        """The line behind the last one that was dispatched."""
        return self.next_line + int.from_bytes(self.ahead, "little").bit_length()

    def is_dispatched(self, line: int) -> bool:
        """Whether a line is on the request topic."""
        bit = line - self.next_line
        return bit < 0 or (bit >> 3 < len(self.ahead) and bool(self.ahead[bit >> 3] & (1 << (bit & 7))))

    @property
    def pool_models(self) -> tuple[str, ...]:
        """The models whose workers get lines; none for a batch that was refused or never validated."""
        return self.pools or ((self.model,) if self.model is not None else ())

    def pool_of(self, model: str) -> str:
        """The model to whose workers a line goes that names `model`."""
        pools, pool = self.pool_models, self.served_by.get(model, model)
        return pool if pool in pools else pools[0]


class BatchReceived(Message, frozen=True, kw_only=True, tag="received"):
    """Facet `received`: lines that came so far of a batch that grows; readers take the latest."""

    num_lines: int


class BatchSealed(Message, frozen=True, kw_only=True, tag="sealed"):
    """Facet `sealed`: nothing more can come to a batch that grew. Its chain of lines says so too, and decides."""

    num_lines: int


class BatchCloseRequested(Message, frozen=True, kw_only=True, tag="close"):
    """Facet `close`: the producer is done. `declared` is how many lines it says there are, all parts together."""

    closed_at: int
    declared: int | None = None


class ShardProgressed(Message, frozen=True, kw_only=True, tag="progress"):
    """Facet `progress/<shard>`: counts of what is durable in the store; readers take the maximum.

    `answered_at` is set once every line of the shard has its completion; `error_codes` counts the failed ones;
    `first_offset` names the first segment that has lines of the shard.
    """

    completed: int
    failed: int
    usage: Usage = Usage()
    error_codes: dict[str, int] = msgspec.field(default_factory=dict)
    first_offset: int | None = None
    answered_at: int | None = None


class ShardRedriven(Message, frozen=True, kw_only=True, tag="redriven"):
    """Facet `redriven/<shard>`: lines that were lost by proof and sent again, `num_lines` in all.

    `attempt` is that of the last time, and `highest_offsets`, per `topic/partition`, what has to be consumed before the
    next proof.
    """

    attempt: int
    num_lines: int
    highest_offsets: dict[str, int] = msgspec.field(default_factory=dict)


class ShardClosed(Message, frozen=True, kw_only=True):
    """The terminal record of one shard of a batch that has several; stands beside the shard's files."""

    status: str
    closed_at: int
    completed: int
    failed: int
    not_run: int
    usage: Usage = Usage()
    error_codes: dict[str, int] = msgspec.field(default_factory=dict)

    @property
    def num_errors(self) -> int:
        """Lines of the error file."""
        return self.failed + self.not_run


class BatchClosed(Message, frozen=True, kw_only=True, tag="closed"):
    """Facet `closed`, and the `final.json` object: the terminal record of a batch, with its result files."""

    status: str
    finalizing_at: int | None
    closed_at: int
    total: int
    completed: int
    failed: int
    not_run: int
    usage: Usage = Usage()
    error_codes: dict[str, int] = msgspec.field(default_factory=dict)
    output_file_id: str | None = None
    error_file_id: str | None = None
    files: tuple[StoredFile, ...] = ()


Facet = (
    BatchCreated
    | BatchCancelRequested
    | BatchCloseRequested
    | BatchReceived
    | BatchSealed
    | BatchDispatched
    | ShardProgressed
    | ShardRedriven
    | BatchClosed
)


class WorkerHeartbeat(Message, frozen=True, kw_only=True):
    """What a worker says of itself every few seconds; the value on `workers`."""

    worker_id: str
    # The one whose pool it works for, then others that its engine answers for.
    models: tuple[str, ...]
    endpoints: tuple[str, ...]
    engine: str
    state: str
    in_flight: int
    started_at: int
    sent_at_ms: int
    # Lines in the engine at most, and partitions of the request topic that the worker has.
    window: int = 0
    partitions: tuple[int, ...] = ()
    version: str = ""
    # Lines a second lately, None before the first; tokens of all lines since it started.
    lines_per_second: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    # Requests that run and wait in the engine, and the share of its KV cache in use, where it says so.
    running: int | None = None
    waiting: int | None = None
    kv_cache_usage: float | None = None


class CancelHint(Message, frozen=True, kw_only=True):
    """A hint on `control`: work on this batch is no longer wanted."""

    batch_id: str


class UnreadableRecord(ValueError):
    """A record's headers or value do not fit the contract; it belongs on the dead-letter topic."""


_facet_decoder: msgspec.json.Decoder[Facet] = msgspec.json.Decoder(Facet)
_encoder = msgspec.json.Encoder()


def encode(message: msgspec.Struct) -> bytes:
    """A message as JSON."""
    return _encoder.encode(message)


def decode_facet(value: bytes) -> Facet:
    """A facet from JSON; raises UnreadableRecord for anything else."""
    try:
        facet = _facet_decoder.decode(value)
    except msgspec.MsgspecError as error:
        raise UnreadableRecord(f"not a facet: {error}") from None
    if facet.schema_version != SCHEMA_VERSION:
        raise UnreadableRecord(f"facet schema {facet.schema_version}, this build reads {SCHEMA_VERSION}")
    return facet
