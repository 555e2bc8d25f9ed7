"""What can be set about a worker?"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from shared.openai_batch import ENDPOINTS
from shared.settings import Block, Seconds, ServiceSettings


class EchoSettings(Block):
    """Knobs of the deterministic engine; all times in seconds."""

    latency_s: float = Field(default=0.0, ge=0)
    latency_per_token_s: float = Field(default=0.0, ge=0)
    jitter_s: float = Field(default=0.0, ge=0)
    slots: int = Field(default=256, ge=1)
    failure_rate: float = Field(default=0.0, ge=0, le=1)
    # A request whose body has one of these texts ends the process at once, or blocks its loop for ever.
    fatal_text: str = ""
    hang_text: str = ""
    embedding_dimensions: int = Field(default=384, ge=1, le=65_536)


class WorkerSettings(Block):
    """One worker: its model, its engine and its window."""

    worker_id: str = "inference-0"
    # Stable ids make a restart cheap (no rebalance), but two live members with one id knock each other out.
    static_member: bool = False
    engine: Literal["vllm", "openai", "echo"] = "vllm"
    model: str = ""
    # Where the weights are when they are not under the model's name: a folder or a hub name.
    model_path: str = ""
    # Flags of vLLM's own server, passed through unchanged.
    vllm_args: tuple[str, ...] = ()
    # Each folder in it is a LoRA adapter, named as a model by requests and loaded when the first one comes.
    lora_folder: Path | None = None
    # GiB of KV cache on a machine without a GPU, where vLLM would take most of the memory.
    cpu_kv_cache_gib: int = Field(default=1, ge=1)
    openai_base_url: str = ""
    openai_api_key: str = ""
    # What the remote engine offers; paths beyond those of OpenAI are open to batches while such a worker lives.
    openai_endpoints: tuple[str, ...] = ENDPOINTS
    openai_timeout_s: Seconds = 600.0
    openai_concurrency: int = Field(default=64, ge=1)
    # Lines in the engine at once; 0 = 1.5 times what it runs at once, and from there on by its own signals.
    window: int = Field(default=0, ge=0)
    # Lines with the same beginning enter one after the other.
    order_by_prefix: bool = True
    # An engine that gives no sign of life for so long is hung, and the process is replaced.
    engine_silence_s: Seconds = 120.0
    transient_tries: int = Field(default=5, ge=1)
    heartbeat_s: Seconds = 2.0
    # The dispatcher measures by what is committed.
    commit_interval_s: Seconds = 0.25
    echo: EchoSettings = EchoSettings()


class InferenceSettings(ServiceSettings):
    """Settings of the inference service."""

    inference: WorkerSettings = WorkerSettings()
