"""How is the environment read? One frozen settings class per service, built from these blocks.

Variables start with `HEADRACE_`, `__` nests (`HEADRACE_KAFKA__BOOTSTRAP`). A variable with that
prefix that nobody knows is refused, and an error names the variable, the value and what is expected.
"""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import SetupError

PREFIX = "HEADRACE_"
DELIMITER = "__"
# Read by the Makefile, the CLI or the test fixtures, not by a service.
OUTSIDE_VARIABLES = frozenset({"HEADRACE_CACHE", "HEADRACE_DATA", "HEADRACE_ENGINE", "HEADRACE_INFERENCE_PYTHON"})
# Blocks of the other services: one environment may serve all three, so these are left alone.
SERVICE_BLOCKS = frozenset({"ingest", "inference", "collector"})

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


class Block(BaseModel):
    """A group of settings; frozen, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class KafkaSettings(Block):
    """How to reach the log, and how its topics are laid out."""

    bootstrap: str = "127.0.0.1:9092"
    topic_prefix: str = "headrace."
    create_topics: bool = False
    # Identity of the log, a part of every segment's key. Empty = the cluster id. A broker that keeps
    # nothing across restarts needs a new one at each start, or old segments would be taken for its log.
    log_id: str = Field(default="", pattern=r"^[A-Za-z0-9._-]*$")
    batches_partitions: int = Field(default=4, ge=1)
    request_partitions: int = Field(default=12, ge=1)
    completions_partitions: int = Field(default=4, ge=1)
    # Of `intake`, `admitted`, `batch-events` and `results` each.
    intake_partitions: int = Field(default=4, ge=1)
    replication_factor: int = Field(default=1, ge=1)
    compression: Literal["none", "gzip", "lz4", "snappy", "zstd"] = "none"
    session_timeout_s: Seconds = 10.0
    heartbeat_interval_s: Seconds = 2.0
    rebalance_timeout_s: Seconds = 10.0
    request_timeout_s: Seconds = 30.0
    linger_ms: int = Field(default=5, ge=0)
    # How long a broker may hold a fetch that finds nothing new; it answers at once when something comes.
    fetch_max_wait_ms: int = Field(default=1500, ge=1)


class StoreSettings(Block):
    """Where objects live: `file:///DIR` or `s3://BUCKET` with endpoint and keys."""

    url: str = "file:///tmp/headrace/store"
    s3_endpoint: str = "http://127.0.0.1:9000"
    s3_access_key: SecretStr = SecretStr("")
    s3_secret_key: SecretStr = SecretStr("")
    s3_region: str = "us-east-1"
    threads: int = Field(default=8, ge=1, le=256)
    # Lines above it lie in the store, and their records say where.
    inline_bytes_max: int = Field(default=256 * 1024, ge=1, le=1024 * 1024)
    timeout_s: Seconds = 60.0


class TelemetrySettings(Block):
    """Where spans go (OTLP over HTTP; empty = nowhere) and which share of lines is traced."""

    otlp_endpoint: str = ""
    sample_ratio: float = Field(default=0.01, ge=0.0, le=1.0)
    # Whether `/metrics` shows more than Python and the engine tell by themselves.
    metrics: bool = True
    # Where a person looks at a trace: 'http://localhost:16686/trace/{trace_id}'.
    trace_url: str = ""
    log_format: Literal["auto", "json", "text"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class ContractSettings(Block):
    """Where compatible services differ; every default is what OpenAI does (openai-contract)."""

    # Error lines of HTTP failures: `error: null`, or code and message copied to the top level too.
    error_lines: Literal["openai", "duplicated"] = "openai"
    # A create call that names an unknown input file: refused at once, or a batch that fails.
    unknown_input_file: Literal["400", "failed"] = "400"
    # Lines that name an unknown model: the batch fails, or each such line does.
    unknown_model: Literal["failed", "per_line"] = "failed"
    # Whether lines that never ran count as failed at the end.
    counts: Literal["openai", "sum"] = "openai"
    # Whether windows other than 24h are taken: `30m`, `7d`.
    windows: Literal["openai", "free"] = "openai"
    several_models: bool = False


class HealthSettings(Block):
    """Where `/healthz` and `/readyz` of this process are served; port 0 = any free one, not served when absent."""

    host: str = "127.0.0.1"
    port: Port | None = None


class ServiceSettings(BaseSettings):
    """What every service reads."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=DELIMITER, frozen=True, extra="ignore", case_sensitive=False
    )

    kafka: KafkaSettings = KafkaSettings()
    store: StoreSettings = StoreSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    contract: ContractSettings = ContractSettings()
    health: HealthSettings = HealthSettings()
    # Models that have a pool of workers, whether or not one is alive now.
    models: tuple[str, ...] = ()
    drain_timeout_s: Seconds = 20.0


S = TypeVar("S", bound=ServiceSettings)


def load_settings(cls: type[S], environ: Mapping[str, str] | None = None) -> S:
    """Read `cls` from the environment.

    Raises:
        SetupError: an unknown `HEADRACE_` variable, or a value that does not fit.
    """
    present = os.environ if environ is None else environ
    _refuse_unknown(cls, present)
    try:
        return cls()
    except ValidationError as error:
        raise SetupError(_explain(error)) from None
    except ValueError as error:  # pydantic-settings wraps undecodable JSON of a complex field
        raise SetupError(f"{error}: a list is written as JSON, for example HEADRACE_MODELS='[\"a\"]'") from None


def _refuse_unknown(cls: type[ServiceSettings], environ: Mapping[str, str]) -> None:
    known = _variables(cls, PREFIX)
    for name in environ:
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper in known or upper in OUTSIDE_VARIABLES:
            continue
        block = upper.removeprefix(PREFIX).split(DELIMITER)[0].lower()
        if block in SERVICE_BLOCKS and block not in cls.model_fields:
            continue
        raise SetupError(f"unknown setting {name}: known are {', '.join(sorted(known))}")


def _variables(model: type[BaseModel], prefix: str) -> set[str]:
    names: set[str] = set()
    for field, info in model.model_fields.items():
        name = prefix + field.upper()
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names |= _variables(kind, name + DELIMITER)
        else:
            names.add(name)
    return names


def _explain(error: ValidationError) -> str:
    parts = []
    for problem in error.errors(include_url=False):
        name = PREFIX + DELIMITER.join(str(part) for part in problem["loc"]).upper()
        value: Any = problem.get("input")
        shown = "(hidden)" if "KEY" in name or "SECRET" in name else repr(value)
        parts.append(f"{name}={shown}: {problem['msg'].lower()}")
    return "; ".join(parts)
