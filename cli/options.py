"""What was asked of `headrace up`? PURE: words of the command line to checked values."""

import re
from dataclasses import dataclass
from pathlib import Path

from shared.errors import SetupError

_ADDRESS = re.compile(r"^[A-Za-z0-9.\-_\[\]:]+:\d{1,5}(,[A-Za-z0-9.\-_\[\]:]+:\d{1,5})*$")
WORKERS_MAX, COLLECTORS_MAX = 256, 256


@dataclass(frozen=True, slots=True)
class Model:
    """A model by the name that requests use, and where its weights are."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Engine:
    """`vllm`, `echo`, or `openai` with its URL."""

    kind: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class UpOptions:
    """A stack on one machine."""

    port: int
    data: Path
    kafka: str
    store: str
    engine: Engine
    models: tuple[Model, ...]
    num_workers: int
    num_collectors: int
    otlp: str
    vllm_args: tuple[str, ...]

    def model_of_worker(self, number: int) -> Model:
        """Workers are shared out over the models in turn."""
        return self.models[number % len(self.models)]


def parse_engine(text: str) -> Engine:
    """`vllm`, `echo` or `openai:URL`; raises SetupError."""
    kind, _, url = text.partition(":")
    if text in ("vllm", "echo"):
        return Engine(text)
    if kind == "openai" and url.startswith(("http://", "https://")):
        return Engine("openai", url)
    raise SetupError(f"--engine {text!r}: expected vllm, echo or openai:http://HOST:PORT/v1")


def parse_model(text: str) -> Model:
    """`NAME`, or `NAME=FOLDER`; a folder alone is served under its own name."""
    name, equals, path = text.partition("=")
    if equals and name and path:
        return Model(name, path)
    if not text or equals:
        raise SetupError(f"--model {text!r}: expected NAME, a folder, or NAME=FOLDER")
    if text.startswith(("/", "./", "../", "~")):
        folder = Path(text).expanduser()
        return Model(folder.name, str(folder.resolve()))
    return Model(text, text)


def parse_kafka(text: str) -> str:
    """`auto`, `jvm`, `memory` or HOST:PORT; raises SetupError."""
    if text in ("auto", "jvm", "memory") or _ADDRESS.match(text):
        return text
    raise SetupError(f"--kafka {text!r}: expected auto, jvm, memory or HOST:PORT")


def parse_store(text: str, data: Path) -> str:
    """`file:///DIR` or `s3://BUCKET`; empty = a folder under the data directory."""
    if not text:
        return f"file://{(data / 'store').resolve()}"
    if text.startswith(("file:///", "s3://")):
        return text
    raise SetupError(f"--store {text!r}: expected file:///DIR or s3://BUCKET")


def check_counts(num_workers: int, num_collectors: int, num_models: int) -> int:
    """The number of workers: at least one per model; raises SetupError."""
    if not 0 <= num_workers <= WORKERS_MAX:
        raise SetupError(f"--workers {num_workers}: expected 1 to {WORKERS_MAX}")
    if not 1 <= num_collectors <= COLLECTORS_MAX:
        raise SetupError(f"--collectors {num_collectors}: expected 1 to {COLLECTORS_MAX}")
    return max(num_workers, num_models)
