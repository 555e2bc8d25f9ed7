"""Which rules hold for an input file? SHELL: settings, pools and quota of the moment become the rules of one pass."""

from services.ingest.input_file import InputFile, LineRules
from services.ingest.model_pools import ModelPools
from services.ingest.quota import Quota
from services.ingest.settings import IngestBlock
from shared.claim_check import REQUEST_BYTES_MAX
from shared.settings import ContractSettings


class InputChecks:
    """Makes validators, for batches and for dry runs."""

    def __init__(self, settings: IngestBlock, contract: ContractSettings, pools: ModelPools, quota: Quota) -> None:
        self._settings = settings
        self._contract = contract
        self._pools = pools
        self._quota = quota

    def input_file(self, endpoint: str, tenant: str, batch_id: str = "") -> InputFile:
        """A validator for one pass over a file."""
        default = next(iter(self._pools.names()), None) if self._contract.unknown_model == "per_line" else None
        rules = LineRules(
            endpoint=endpoint,
            lines_max=self._settings.batch_lines_max,
            line_bytes_max=REQUEST_BYTES_MAX,
            queued_lines_max=self._quota.queued_lines_left(tenant, but_for=batch_id),
            embedding_inputs_max=self._settings.embedding_inputs_max or None,
            several_models=self._contract.several_models,
            default_model=default,
        )
        return InputFile(rules, self._pools.pool_of)
