"""Where does vLLM keep what we call? Module paths inside it move between versions, so each name lists its places.

The newest place comes first. A test looks every name up in the lowest and in the highest version that is allowed.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

_ENTRYPOINTS = "vllm.entrypoints"
PLACES: Mapping[str, tuple[str, ...]] = {
    "FlexibleArgumentParser": ("vllm.utils.argparse_utils",),
    "make_arg_parser": (f"{_ENTRYPOINTS}.common.cli_args", f"{_ENTRYPOINTS}.launchers.cli_args"),
    "validate_parsed_serve_args": (f"{_ENTRYPOINTS}.common.cli_args", f"{_ENTRYPOINTS}.launchers.cli_args"),
    "enable_envs_cache": ("vllm.envs",),
    "build_async_engine_client": (f"{_ENTRYPOINTS}.launchers.api_server.entry",),
    "build_app": (f"{_ENTRYPOINTS}.launchers.app",),
    "init_app_state": (f"{_ENTRYPOINTS}.launchers.api_server.app_state",),
    "create_error_response": (f"{_ENTRYPOINTS}.serve",),
    "ErrorResponse": (f"{_ENTRYPOINTS}.serve.engine.protocol",),
    "ChatCompletionRequest": (f"{_ENTRYPOINTS}.openai.chat_completion.protocol",),
    "CompletionRequest": (f"{_ENTRYPOINTS}.openai.completion.protocol",),
    "EmbeddingCompletionRequest": (f"{_ENTRYPOINTS}.pooling.embed.protocol",),
    "LoadLoRAAdapterRequest": (f"{_ENTRYPOINTS}.serve.lora.protocol",),
}
# Attributes of the application's state that hold handlers; one that a model does not support is absent.
CHAT_HANDLER, COMPLETION_HANDLER = "openai_serving_chat", "openai_serving_completion"
EMBEDDING_HANDLER, MODELS_HANDLER = "serving_embedding", "openai_serving_models"
# A switch of the two that generate: an answer carries what the engine measured.
SHOW_TIMES = "enable_per_request_metrics"
# What is called of the engine client.
ENGINE_MEMBERS = ("abort", "dead_error", "errored", "get_supported_tasks", "is_sleeping")


def find(name: str) -> Any:
    """The thing with this name, wherever this version keeps it; raises ImportError."""
    for place in PLACES[name]:
        try:
            return getattr(import_module(place), name)
        except (ModuleNotFoundError, AttributeError):
            continue
    raise ImportError(f"this version of vLLM has no {name} in {' or '.join(PLACES[name])}")
