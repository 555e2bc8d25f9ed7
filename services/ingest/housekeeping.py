"""What is removed, and when? SHELL: files past their end every few seconds, leftovers every few minutes."""

import time

import structlog

from services.ingest.file_keeper import FileKeeper
from services.ingest.idempotency import Idempotency
from services.ingest.ownership import Ownership
from services.ingest.uploads import Uploads
from shared.claim_store import ClaimStore
from shared.errors import HeadraceError
from shared.lifecycle import Stop

log = structlog.get_logger(__name__)

FILES_INTERVAL_S = 5.0
# These look at the store, which costs a listing and a read of each note of the last two days.
LEFTOVERS_INTERVAL_S = 3600.0


class Housekeeping:
    """Removes what is over, in the one process that owns the first partition of `batches`."""

    def __init__(
        self,
        *,
        ownership: Ownership,
        keeper: FileKeeper,
        uploads: Uploads,
        idempotency: Idempotency,
        claims: ClaimStore,
    ) -> None:
        self._ownership = ownership
        self._keeper = keeper
        self._uploads = uploads
        self._idempotency = idempotency
        self._claims = claims
        self._swept_at = -LEFTOVERS_INTERVAL_S

    async def run(self, stop: Stop) -> None:
        """Until asked to stop; what fails is tried again."""
        while not await stop.wait(FILES_INTERVAL_S):
            if not self._ownership.owns_first:
                continue
            try:
                await self._clean()
            except (HeadraceError, OSError) as error:
                log.warning("housekeeping is tried again", reason=str(error))

    async def _clean(self) -> None:
        now_s = int(time.time())
        num_files = await self._keeper.sweep(now_s)
        if num_files:
            log.info("files removed", num_files=num_files)
        if time.monotonic() - self._swept_at >= LEFTOVERS_INTERVAL_S:
            num_uploads = await self._uploads.sweep(now_s)
            num_keys = await self._idempotency.sweep(now_s)
            num_claims = await self._claims.sweep(now_s)
            log.info("leftovers removed", num_uploads=num_uploads, num_idempotency_keys=num_keys, num_claims=num_claims)
            self._swept_at = time.monotonic()
