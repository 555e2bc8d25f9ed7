"""How much may one tenant have at once? PURE: settings in, limits of a tenant out; None is no limit."""

from collections.abc import Mapping

from pydantic import Field

from shared.settings import Block


class Limits(Block):
    """Limits of one tenant."""

    requests_per_minute: int | None = Field(default=None, ge=1)
    # Records of the intake; those above it are answered with an error.
    intake_per_minute: int | None = Field(default=None, ge=1)
    open_batches: int | None = Field(default=None, ge=0)
    queued_lines: int | None = Field(default=None, ge=0)
    stored_bytes: int | None = Field(default=None, ge=0)


class TenantLimits:
    """The limits that hold for all, and those of single tenants, which replace them one by one."""

    def __init__(self, default: Limits, by_tenant: Mapping[str, Limits]) -> None:
        self._default = default
        self._by_tenant = {
            tenant: default.model_copy(update=own.model_dump(exclude_unset=True)) for tenant, own in by_tenant.items()
        }

    def of(self, tenant: str) -> Limits:
        """What holds for this tenant."""
        return self._by_tenant.get(tenant, self._default)
