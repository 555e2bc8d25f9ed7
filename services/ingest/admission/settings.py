"""What can be set about admission?"""

from pydantic import Field

from shared.settings import Block, Seconds
from shared.topics import SHARD_LINES


class IntakeBlock(Block):
    """Requests that come through the log."""

    enabled: bool = True
    # Whose records those of the common topic are, where the header `tenant` is not believed.
    tenant: str = "default"
    believe_tenant_header: bool = False
    # More topics, each of one tenant. Kafka does not tell a reader who wrote a record, but its access lists say who may
    # write to a topic: '{"acme.requests": "acme"}'.
    tenant_topics: dict[str, str] = Field(default_factory=dict)
    # Topics that requests may name for their answers.
    reply_topics: tuple[str, ...] = ()
    # A request that comes again in this time is the same one; only so many are remembered, by partition.
    window_s: Seconds = 3600.0
    window_requests: int = Field(default=50_000, ge=1)

    # Lines of a batch by topic; what comes beyond them is its next part.
    batch_lines_max: int = Field(default=SHARD_LINES, ge=1, le=SHARD_LINES)

    @property
    def users_topics(self) -> tuple[str, ...]:
        """Topics that belong to users."""
        return (*self.tenant_topics, *self.reply_topics)
