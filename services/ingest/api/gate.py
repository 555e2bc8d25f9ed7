"""Who calls, and may they? SHELL: a bearer key becomes a principal, or the call is refused.

While no key was ever made, callers on this machine are the tenant `default`; everybody else is refused.
"""

import ipaddress
import time
from dataclasses import dataclass

from fastapi import Request

from services.ingest.api.errors import ApiError, too_many
from services.ingest.limits import TenantLimits
from services.ingest.rate_limiter import RateLimiter
from services.ingest.read_model import ReadModel
from services.ingest.view_feed import ViewFeed
from shared.api_keys import SCOPES, masked
from shared.guesses import MISSING_SCOPE_CODE
from shared.metric_names import REFUSED_CALLS
from shared.telemetry import Telemetry

DEFAULT_TENANT = "default"
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_REASONS = {401: "key", 403: "scope", 429: "rate"}
# Set by proxies: behind one, the peer's address says nothing about the caller.
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller; `key_id` is None for one who needs no key."""

    tenant: str
    scopes: frozenset[str]
    key_id: str | None = None
    requests_per_minute: int | None = None


class Gate:
    """A dependency of every route of a resource; leaves the principal on the request."""

    def __init__(
        self,
        *,
        view: ReadModel,
        feed: ViewFeed,
        limits: TenantLimits,
        rate_limiter: RateLimiter,
        resource: str,
        telemetry: Telemetry,
    ) -> None:
        self._view = view
        self._feed = feed
        self._limits = limits
        self._rates = rate_limiter
        self._resource = resource
        self._num_refused = telemetry.counter(REFUSED_CALLS)

    async def __call__(self, request: Request) -> None:
        """Authenticate, check the scope, count the request; raises ApiError 401, 403 or 429."""
        try:
            principal = await self._authenticate(request)
            self._check_scope(request, principal)
            self._count(principal)
        except ApiError as refusal:
            self._num_refused.add(1, {"reason": _REASONS[refusal.status]})
            raise
        request.state.principal = principal

    def _check_scope(self, request: Request, principal: Principal) -> None:
        # The routes of `/models` only read.
        action = "read" if request.method in _READS else "write"
        if (scope := f"{self._resource}.{action}") not in principal.scopes:
            text = f"You have insufficient permissions for this operation. Missing scopes: {scope}."
            raise ApiError(403, text, code=MISSING_SCOPE_CODE)

    async def _authenticate(self, request: Request) -> Principal:
        keyring, scheme = self._view.keyring, request.headers.get("authorization", "")
        kind, _, secret = scheme.partition(" ")
        if keyring.is_empty:
            if _is_local(request):
                return Principal(DEFAULT_TENANT, frozenset(SCOPES))
            raise _unauthorized("no key was made yet, which leaves the API to callers on its own machine")
        if kind.lower() != "bearer" or not secret.strip():
            raise _unauthorized("none was sent")
        key = keyring.find(secret.strip(), time.time())
        if key is None:  # it may have been made a moment ago; all who ask at the same time share one question
            await self._feed.catch_up()
            key = self._view.keyring.find(secret.strip(), time.time())
        if key is None:
            raise _unauthorized(masked(secret.strip()))
        return Principal(key.tenant, frozenset(key.scopes), key.id, key.requests_per_minute)

    def _count(self, principal: Principal) -> None:
        rates = (
            (f"key {principal.key_id}", principal.requests_per_minute),
            (f"tenant {principal.tenant}", self._limits.of(principal.tenant).requests_per_minute),
        )
        for name, per_minute in rates:
            if per_minute is not None and (wait_s := self._rates.take(name, per_minute, time.monotonic())):
                raise too_many(f"Rate limit reached for {name}: {per_minute} requests per minute.", wait_s)


def principal_of(request: Request) -> Principal:
    """The caller, as the gate found."""
    principal: Principal = request.state.principal
    return principal


def tenant_of(request: Request) -> str:
    """The caller's tenant."""
    return principal_of(request).tenant


def _is_local(request: Request) -> bool:
    if any(name in request.headers for name in _FORWARDED):
        return False
    try:
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


def _unauthorized(what: str) -> ApiError:
    return ApiError(401, f"Incorrect API key provided: {what}.", code="invalid_api_key")
