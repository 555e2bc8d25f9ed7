"""vLLM inside the worker: the only module that uses it. SHELL.

vLLM builds its own OpenAI handlers from its own server's arguments, and the handlers are called directly, so
bodies and errors are exactly vLLM's. What it calls where is in `vllm_names`.
"""

import asyncio
import contextlib
import gc
import json
import os
import types
from pathlib import Path
from typing import Any

import structlog

from services.inference.engine import Answer, EngineDead, EngineLoad, EngineRequest, EngineResult, EngineTimes, Retry
from services.inference.lora import LoraAdapters
from services.inference.settings import WorkerSettings
from services.inference.vllm_calls import (
    FORCED_FIELDS,
    FORCED_FIELDS_ON_CPU,
    body_without,
    engine_ids,
    engine_times,
    fields_of,
    model_of_body,
    scope_of,
)
from services.inference.vllm_load import read_load
from services.inference.vllm_names import (
    CHAT_HANDLER,
    COMPLETION_HANDLER,
    EMBEDDING_HANDLER,
    MODELS_HANDLER,
    SHOW_TIMES,
    find,
)
from shared.errors import SetupError
from shared.openai_batch import error_envelope

log = structlog.get_logger(__name__)

# Generation endpoints and pooling endpoints; a model serves one family.
GENERATE_ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
EMBED_ENDPOINTS = ("/v1/embeddings",)
# What vLLM serves beyond OpenAI's contract, for models that can; each takes one JSON object and answers with one.
EXTENSION_ENDPOINTS = ("/v1/score", "/score", "/v1/rerank", "/v2/rerank", "/rerank", "/classify", "/pooling")
# More than one token: a first forward pass of single tokens crashes bf16 attention on CPUs with AMX.
WARM_UP_TEXT = "One request of several tokens before the first real one, because a short one may crash the kernel."
WARM_UP_TIMEOUT_S = 600.0


def check_model(path: str) -> None:
    """See that the weights can be had: a folder with a config.json, or a hub name; raises SetupError."""
    folder = Path(path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise SetupError(f"{path} is not a model folder: it has no config.json")
        return
    if path.startswith(("/", "./", "../", "~")):
        raise SetupError(f"model folder {path} does not exist")
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(path, "config.json")
    except Exception as error:  # noqa: BLE001 - the hub client raises from a dozen roots
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise SetupError(f"model {path!r} is neither a folder nor to be had from the hub: {reason}") from None


class VllmEngine:
    """An Engine that holds an AsyncLLM and vLLM's serving handlers."""

    name = "vllm"

    def __init__(self, settings: WorkerSettings, otlp_endpoint: str = "") -> None:
        """`otlp_endpoint` = where spans go; vLLM then has one of its own for each request that is traced."""
        self._settings = settings
        self._otlp_endpoint = otlp_endpoint
        self._adapters = LoraAdapters(settings.lora_folder)
        self._stack = contextlib.AsyncExitStack()
        self.endpoints: tuple[str, ...] = ()
        self.num_slots = 1
        self._engine: Any = None
        self._app: Any = None
        self._cpu_arguments: dict[str, list[str]] = {}
        self._forced = FORCED_FIELDS
        self._handlers: dict[str, tuple[Any, Any]] = {}
        self._to_error: Any = None
        self._error_class: Any = None
        self._shows_times = False
        self._through_app_now: dict[str, asyncio.Event] = {}

    def adapters(self) -> tuple[str, ...]:
        """LoRA adapters in the allowed folder."""
        return self._adapters.names()

    async def start(self) -> None:
        """Load the model and answer one request; raises SetupError when vLLM cannot serve it."""
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(self._settings.cpu_kv_cache_gib))
        try:
            self._prepare_cpu()
            await self._build()
        except ImportError as error:
            raise SetupError(
                f"vLLM is not installed in this environment ({error}): run 'make setup ENGINE=vllm'"
            ) from error
        except (ValueError, RuntimeError, OSError) as error:
            raise SetupError(f"vLLM cannot serve {self._settings.model}: {error}") from error
        find("enable_envs_cache")()  # each request asks for dozens of variables, and none changes from here on
        gc.collect()
        gc.freeze()  # as vLLM's own server does: a sixth of the front end's CPU otherwise goes to the collector
        await self._warm_up()

    async def answer(self, request: EngineRequest) -> EngineResult:
        """Run one request through vLLM's own handler, or through its application when it has none."""
        if request.url not in self.endpoints:
            message = f"The model '{self._settings.model}' does not support {request.url}."
            return Answer(404, json.dumps(error_envelope(message, code="unsupported_endpoint")).encode())
        handler = self._handlers.get(request.url)
        try:
            if refused := await self._adapter_problem(request):
                return refused
            result = await (self._handle(handler, request) if handler else self._through_app(request))
        except Exception as error:  # noqa: BLE001 - handlers raise what vLLM's application turns into a response
            result = self._error_answer(self._to_error(error))
        if isinstance(result, Answer) and result.status >= 500:
            if reason := self.failure():
                return EngineDead(reason)
            return Retry(f"vLLM answered {result.status}", result)
        return result

    async def cancel(self, request: EngineRequest) -> None:
        """Abort the generation; what comes back then is not a result."""
        rid = request.request_id
        if gone := self._through_app_now.get(rid):
            gone.set()
        await self._engine.abort(engine_ids(rid))

    def load(self) -> EngineLoad | None:
        """What vLLM's own metrics say."""
        return read_load()

    def failure(self) -> str | None:
        """Why the engine core is dead, or None. One that exited cleanly sets no error: its process is looked at."""
        if self._engine is None:
            return None
        if self._engine.errored:
            return f"vLLM engine core died: {self._engine.dead_error!r}"
        manager = getattr(getattr(self._engine.engine_core, "resources", None), "engine_manager", None)
        if any(not process.is_alive() for process in getattr(manager, "processes", ())):
            return "vLLM engine core exited"
        return None

    async def probe(self) -> None:
        """Ask the engine core something that it answers between two steps."""
        await self._engine.is_sleeping()

    async def close(self, timeout_s: float) -> None:
        """Shut the engine core down inside the limit."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._stack.aclose()
        except TimeoutError:
            log.warning("vLLM did not shut down in time", timeout_s=timeout_s)

    async def _build(self) -> None:
        arguments = find("make_arg_parser")(find("FlexibleArgumentParser")()).parse_args(self._arguments())
        if getattr(arguments, "model_tag", None):
            arguments.model = arguments.model_tag
        find("validate_parsed_serve_args")(arguments)
        self._engine = await self._stack.enter_async_context(find("build_async_engine_client")(arguments))
        tasks = await self._engine.get_supported_tasks()
        self._app = find("build_app")(arguments, tasks, self._engine.model_config)
        state = self._app.state
        # The application's handler for engine errors sets should_exit on the server that it expects here.
        state.server = types.SimpleNamespace(should_exit=False)
        await find("init_app_state")(self._engine, state, arguments, tasks)
        self._to_error, self._error_class = find("create_error_response"), find("ErrorResponse")
        self.endpoints = GENERATE_ENDPOINTS if "generate" in tasks else EMBED_ENDPOINTS if "embed" in tasks else ()
        self.endpoints += _served(self._app.routes, EXTENSION_ENDPOINTS)
        self.num_slots = int(self._engine.vllm_config.scheduler_config.max_num_seqs)
        self._shows_times = bool(getattr(arguments, SHOW_TIMES, False))
        for name in (CHAT_HANDLER, COMPLETION_HANDLER):
            if hasattr(handler := getattr(state, name, None), SHOW_TIMES) and not arguments.disable_log_stats:
                setattr(handler, SHOW_TIMES, True)
        self._handlers = _handlers_of(state)

    async def _adapter_problem(self, request: EngineRequest) -> Answer | None:
        if not self._settings.lora_folder:
            return None
        name = model_of_body(request.body)
        problem = await self._adapters.make_ready(name, self._load_adapter)
        if problem is None:
            return None
        text = f"The adapter '{name}' cannot be loaded: {problem}"
        return Answer(400, json.dumps(error_envelope(text, param="model", code="adapter_not_loaded")).encode())

    async def _load_adapter(self, name: str, path: str) -> str | None:
        request = find("LoadLoRAAdapterRequest")(lora_name=name, lora_path=path)
        answer = await getattr(self._app.state, MODELS_HANDLER).load_lora_adapter(request)
        if isinstance(answer, self._error_class):
            return str(answer.error.message)
        log.info("adapter loaded", adapter=name)
        return None

    def _prepare_cpu(self) -> None:
        from vllm.platforms import current_platform

        if not current_platform.is_cpu():
            return
        # With both, the model runs inside the engine core, whose process otherwise burns a core waiting for it.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        self._forced = {**FORCED_FIELDS, **FORCED_FIELDS_ON_CPU}
        self._cpu_arguments = {"--enforce-eager": [], "--distributed-executor-backend": ["uni"]}

    def _arguments(self) -> list[str]:
        s = self._settings
        given = {argument.split("=")[0] for argument in s.vllm_args}
        if {"--disable-log-stats", "--otlp-traces-endpoint"} <= given:
            # Its first traced request then kills vLLM's output loop for good.
            raise SetupError("vLLM cannot trace without statistics: leave out --disable-log-stats")
        arguments = [s.model_path or s.model, "--served-model-name", s.model]
        lora: dict[str, list[str]] = {"--enable-lora": []} if s.lora_folder else {}
        traces = {"--otlp-traces-endpoint": [f"{self._otlp_endpoint.rstrip('/')}/v1/traces"]}
        traced: dict[str, list[str]] = traces if self._otlp_endpoint and "--disable-log-stats" not in given else {}
        defaults = {"--scheduling-policy": ["priority"]} | lora | traced | self._cpu_arguments
        for flag, values in defaults.items():
            arguments += [] if flag in given else [flag, *values]
        return [*arguments, *s.vllm_args]

    async def _warm_up(self) -> None:
        generates = "/v1/completions" in self.endpoints
        extra = {"prompt": WARM_UP_TEXT, "max_tokens": 2} if generates else {"input": WARM_UP_TEXT}
        url = "/v1/completions" if generates else "/v1/embeddings"
        body = json.dumps({"model": self._settings.model} | extra).encode()
        async with asyncio.timeout(WARM_UP_TIMEOUT_S):
            result = await self.answer(EngineRequest("warm-up", url, body))
        if not isinstance(result, Answer) or result.status != 200:
            raise SetupError(f"vLLM loaded {self._settings.model} but cannot run it: {result}")

    async def _handle(self, handler: tuple[Any, Any], request: EngineRequest) -> EngineResult:
        request_class, call = handler
        parsed = request_class.model_validate_json(request.body)
        for field, value in fields_of(request, self._forced).items():
            if field in request_class.model_fields:
                setattr(parsed, field, value)
        # Without a parent span there is nothing in the headers that the fields above do not say.
        raw = _raw_request(self._app, request) if request.traceparent or request.url in EMBED_ENDPOINTS else None
        result = await call(parsed, raw)
        if isinstance(result, self._error_class):
            return self._error_answer(result)
        if any(getattr(choice, "finish_reason", None) == "abort" for choice in getattr(result, "choices", ())):
            return Retry("the generation was aborted")
        if hasattr(result, "model_dump_json"):
            times = self._times_of(result)
            return Answer(200, result.model_dump_json().encode(), times)
        return Answer(result.status_code, bytes(result.body))

    def _times_of(self, result: Any) -> EngineTimes | None:
        """What vLLM measured, which its body tells only if its own switch asks for it."""
        found = getattr(result, "metrics", None)
        if found is None:
            return None
        if not self._shows_times:
            result.metrics = None
        return engine_times(found)

    def _error_answer(self, error: Any) -> Answer:
        return Answer(int(error.error.code), error.model_dump_json().encode())

    async def _through_app(self, request: EngineRequest) -> EngineResult:
        """Call vLLM's whole HTTP application in process; for endpoints without a handler of their own here."""
        gone = self._through_app_now[request.request_id] = asyncio.Event()
        sent = False
        status, chunks = 500, []

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if not sent:
                sent = True
                body = body_without(request, self._forced)
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                chunks.append(message.get("body", b""))

        try:
            await self._app(scope_of(request, self._app), receive, send)
        finally:
            del self._through_app_now[request.request_id]
        if gone.is_set():
            return Retry("the request was cancelled")
        return Answer(status, b"".join(chunks))


def _handlers_of(state: Any) -> dict[str, tuple[Any, Any]]:
    """Request class and call by path; what the model does not support is absent from the state."""
    handlers = {}
    if chat := getattr(state, CHAT_HANDLER, None):
        handlers["/v1/chat/completions"] = (find("ChatCompletionRequest"), chat.create_chat_completion)
    if completion := getattr(state, COMPLETION_HANDLER, None):
        handlers["/v1/completions"] = (find("CompletionRequest"), completion.create_completion)
    if embedding := getattr(state, EMBEDDING_HANDLER, None):
        handlers["/v1/embeddings"] = (find("EmbeddingCompletionRequest"), embedding)
    return handlers


def _served(routes: Any, wanted: tuple[str, ...]) -> tuple[str, ...]:
    paths = {getattr(route, "path", "") for route in routes}
    return tuple(path for path in wanted if path in paths)


def _raw_request(app: Any, request: EngineRequest) -> Any:
    from starlette.requests import Request

    return Request(scope_of(request, app))
