"""What can be set about ingest?"""

from pathlib import Path

from pydantic import Field

from services.ingest.admission.settings import IntakeBlock
from services.ingest.limits import Limits
from shared.messages import LINES_MAX
from shared.settings import Block, Port, Seconds, ServiceSettings

MIB = 1024 * 1024


class IngestBlock(Block):
    """The HTTP API and the dispatcher; limits are those of the real service (contract 1.4)."""

    host: str = "127.0.0.1"
    port: Port = 8000
    # Where the SQLite view of the log is kept; empty = a temporary file, rebuilt at each start.
    view_path: Path | None = None
    file_bytes_max: int = Field(default=512 * MIB, ge=1)
    batch_file_bytes_max: int = Field(default=200 * MIB, ge=1)
    # The real service's limit; larger batches are collected in shards of 50,000 lines.
    batch_lines_max: int = Field(default=50_000, ge=1, le=LINES_MAX)
    upload_bytes_max: int = Field(default=8 * 1024 * MIB, ge=1)
    part_bytes_max: int = Field(default=64 * MIB, ge=1)
    # Inputs of all lines of an embeddings batch; 0 = as many as there are.
    embedding_inputs_max: int = Field(default=50_000, ge=0)
    # What `24h` means; shorter in tests.
    completion_window_s: int = Field(default=24 * 3600, ge=1)
    # The longest of the free windows.
    completion_window_s_max: int = Field(default=30 * 24 * 3600, ge=1)
    # A create call that an SDK repeats within this time gets the batch that the first one made; 0 = a new one.
    create_retry_window_s: int = Field(default=60, ge=0)
    # Limits of every tenant, and those that replace them for some: '{"acme": {"open_batches": 5}}'.
    limits: Limits = Limits()
    tenant_limits: dict[str, Limits] = Field(default_factory=dict)
    # Lines of one batch, and of one tenant, that are on the request topics at once.
    outstanding_lines_per_batch: int = Field(default=20_000, ge=1)
    outstanding_lines_per_tenant: int = Field(default=40_000, ge=1)
    # Lines that begin alike go to the same worker, as far as load stays even.
    like_lines_together: bool = True
    dispatch_chunk_lines: int = Field(default=500, ge=1)
    validate_concurrency: int = Field(default=2, ge=1)
    cursor_interval_s: Seconds = 1.0
    batch_file_expires_after_s: int = Field(default=30 * 24 * 3600, ge=3600)
    # A stable name makes a restart cheap: the group does not wait for the session of the one that died. Two live
    # processes must not share one. Empty = none.
    instance_id: str = ""
    worker_silence_s: Seconds = 10.0
    intake: IntakeBlock = IntakeBlock()


class IngestSettings(ServiceSettings):
    """Settings of the ingest service."""

    ingest: IngestBlock = IngestBlock()
