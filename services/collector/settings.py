"""What can be set about a collector?"""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from shared.settings import Block, Seconds, ServiceSettings


class CollectorBlock(Block):
    """Which partitions of the completions log are ours, and when segments are written.

    Collector `index` of `count` owns the partitions p with p % count == index.
    """

    index: int = Field(default=0, ge=0)
    count: int = Field(default=1, ge=1)
    segment_bytes: int = Field(default=8 * 1024 * 1024, ge=1)
    segment_age_s: Seconds = 1.0
    progress_interval_s: Seconds = 1.0
    # How often it is looked for lines that were lost.
    audit_interval_s: Seconds = 2.0
    # Segments all of whose batches ended longer ago than this are removed.
    segment_retention_s: Seconds = 24 * 3600.0
    garbage_interval_s: Seconds = 300.0
    # Local space for files that are being put together; empty = the system's temporary folder.
    scratch_dir: Path | None = None
    finalize_concurrency: int = Field(default=2, ge=1)
    result_expires_after_s: int = Field(default=30 * 24 * 3600, ge=3600)

    @model_validator(mode="after")
    def _index_below_count(self) -> Self:
        if self.index >= self.count:
            raise ValueError(f"index must be below count {self.count}")
        return self


class CollectorSettings(ServiceSettings):
    """Settings of the collector service."""

    collector: CollectorBlock = CollectorBlock()
