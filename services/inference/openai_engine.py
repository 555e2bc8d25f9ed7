"""Any OpenAI-compatible base URL as an engine. SHELL: what a remote answer means is decided in `classify`."""

import json

import httpx2

from services.inference.engine import Answer, EngineLoad, EngineRequest, EngineResult, Retry
from services.inference.settings import WorkerSettings
from shared.errors import SetupError
from shared.openai_batch import error_envelope

WARM_UP_TIMEOUT_S = 10.0
_BUSY = frozenset({408, 409, 425, 429})


def classify(status: int, body: bytes) -> EngineResult:
    """What a remote answer means: 2xx and most 4xx are answers, overload and 5xx are worth another try. PURE."""
    answer = Answer(status, body if _is_object(body) else _wrapped(status, body))
    if status in _BUSY or status >= 500:
        return Retry(f"the engine answered {status}", answer)
    return answer


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except ValueError:
        return False


def _wrapped(status: int, body: bytes) -> bytes:
    text = body[:500].decode("utf-8", "replace")
    return json.dumps(error_envelope(f"The engine answered {status}: {text}", kind="server_error")).encode()


class OpenAIEngine:
    """An Engine behind HTTP."""

    name = "openai"

    def __init__(self, settings: WorkerSettings) -> None:
        self.endpoints: tuple[str, ...] = settings.openai_endpoints
        if not settings.openai_base_url.startswith(("http://", "https://")):
            raise SetupError(
                f"HEADRACE_INFERENCE__OPENAI_BASE_URL={settings.openai_base_url!r}: expected http(s)://HOST:PORT/v1"
            )
        self._base = settings.openai_base_url.rstrip("/").removesuffix("/v1")
        self.num_slots = settings.openai_concurrency
        key = settings.openai_api_key
        self._client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(settings.openai_timeout_s, connect=10.0),
            limits=httpx2.Limits(max_connections=settings.openai_concurrency * 2),
        )

    def adapters(self) -> tuple[str, ...]:
        """None."""
        return ()

    async def start(self) -> None:
        """See that somebody answers; raises SetupError."""
        try:
            await self._client.get(f"{self._base}/v1/models", timeout=WARM_UP_TIMEOUT_S)
        except httpx2.HTTPError as error:
            raise SetupError(
                f"no engine answers at {self._base}/v1/models: {error!r}; start it or correct the URL"
            ) from None

    async def answer(self, request: EngineRequest) -> EngineResult:
        """Send one request; an unanswered one is worth another try for as long as the outage lasts."""
        headers = {"content-type": "application/json", "x-request-id": request.request_id}
        if request.traceparent:
            headers["traceparent"] = request.traceparent
            if request.tracestate:
                headers["tracestate"] = request.tracestate
        try:
            response = await self._client.post(self._base + request.url, content=request.body, headers=headers)
        except httpx2.HTTPError as error:
            return Retry(f"{type(error).__name__}: {error}")
        return classify(response.status_code, response.content)

    async def cancel(self, request: EngineRequest) -> None:
        """HTTP has no cancel of its own; the answer is thrown away when it comes."""

    def load(self) -> EngineLoad | None:
        """A remote engine shows none: its window is the one that was set."""
        return None

    def failure(self) -> str | None:
        """A remote engine is away, never dead."""
        return None

    async def probe(self) -> None:
        """A server that is away is waited for; only our own loop could hang."""

    async def close(self, _timeout_s: float) -> None:
        """Close the connections."""
        await self._client.aclose()
