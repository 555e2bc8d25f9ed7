"""`headrace up`: a whole stack on one machine, in the foreground. SHELL: check, start, watch, drain."""

import asyncio
import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient

from cli.fill_log import fill_log
from cli.local_kafka import (
    LocalKafka,
    free_port,
    is_formatted,
    jars_problem,
    java_problem,
    prepare_jvm_broker,
    prepare_memory_broker,
)
from cli.options import Engine, Model, UpOptions
from cli.stack import HOST, KAFKA_ORDER, metrics_pages, service_specs
from cli.supervisor import ChildSpec, GaveUp, Interrupted, Supervisor
from services.collector.settings import CollectorSettings
from services.inference.settings import InferenceSettings
from services.ingest.settings import IngestSettings
from shared.errors import SetupError, UnavailableError
from shared.kafka import start_client, stop_client
from shared.lifecycle import SETUP_EXIT_CODE
from shared.open_store import open_store
from shared.settings import KafkaSettings, ServiceSettings, StoreSettings, load_settings
from shared.topics import Topics

BROKER_START_TIMEOUT_S, BROKER_POLL_S = 60.0, 0.2
# A broker that somebody else runs is there or it is not.
BROKER_ANSWER_TIMEOUT_S = 10.0
STOP_MARGIN_S = 10.0
CHECK_TIMEOUT_S = 300
DEFAULT_ECHO_MODEL = "echo"
TINY_CHAT_MODEL = "tiny-chat"


def say(text: str) -> None:
    """A line for the person at the terminal."""
    print(text, flush=True)


def cache_folder() -> Path:
    """Where downloads and build outputs are kept."""
    return Path(os.environ.get("HEADRACE_CACHE") or Path.home() / ".cache" / "headrace")


def assets_folder() -> Path:
    """The broker's pom and log settings: beside the package when installed, in `deploy/local` in a checkout."""
    packaged = Path(__file__).parent / "local_assets"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "deploy" / "local"


def inference_python() -> str:
    """The interpreter that has vLLM: named by HEADRACE_INFERENCE_PYTHON, beside this environment, or this one."""
    named = os.environ.get("HEADRACE_INFERENCE_PYTHON")
    beside = Path(sys.prefix).parent / ".venv-inference" / "bin" / "python"
    candidates = [named] if named else [str(beside), sys.executable]
    for candidate in candidates:
        if shutil.which(candidate) and _has_vllm(candidate):
            return candidate
    raise SetupError(
        "no environment with vLLM: run 'make setup ENGINE=vllm', or set HEADRACE_INFERENCE_PYTHON, or use --engine echo"
    )


def _has_vllm(python: str) -> bool:
    code = "import importlib.util as u, sys; sys.exit(u.find_spec('vllm') is None)"
    return subprocess.run([python, "-c", code], capture_output=True, timeout=60, check=False).returncode == 0


def default_engine() -> Engine:
    """vLLM where it is installed, echo otherwise."""
    try:
        inference_python()
    except SetupError:
        return Engine("echo")
    return Engine("vllm")


def default_models(engine: Engine) -> tuple[Model, ...]:
    """What is served when no model is named; raises SetupError when there is nothing."""
    if engine.kind == "echo":
        return (Model(DEFAULT_ECHO_MODEL, DEFAULT_ECHO_MODEL),)
    tiny = cache_folder() / "models" / TINY_CHAT_MODEL
    if engine.kind == "vllm" and (tiny / "config.json").is_file():
        say(f"serving {TINY_CHAT_MODEL}, a tiny model with random weights: its words are noise; --model names another")
        return (Model(TINY_CHAT_MODEL, str(tiny)),)
    raise SetupError(f"--engine {engine.kind} needs --model: a hub name or a folder")


def up(options: UpOptions) -> int:
    """Run the stack until a signal comes; the exit code: 0 drained, 1 gave up, 2 the set-up is wrong."""
    _check(options)
    with locked(options.data):
        settings = load_settings(ServiceSettings)
        (options.data / "run" / "stack.json").unlink(missing_ok=True)  # a killed stack leaves it behind
        supervisor = Supervisor(options.data, say, settings.drain_timeout_s + STOP_MARGIN_S)
        supervisor.catch_signals()
        try:
            _start(options, supervisor)
            say(f"ready http://{HOST}:{options.port}/v1")
            supervisor.watch()
        except Interrupted:
            say("stopping: lines in flight are finished first, Ctrl-C again to force")
            return 0
        except GaveUp as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            return SETUP_EXIT_CODE if error.is_setup else 1
        finally:
            supervisor.stop_all()
            (options.data / "run" / "stack.json").unlink(missing_ok=True)
            say("stopped")


def _check(options: UpOptions) -> None:
    """Everything that can be known before anything starts; raises SetupError."""
    for service in (IngestSettings, InferenceSettings, CollectorSettings):
        load_settings(service)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, options.port))
        except OSError:
            raise SetupError(f"port {options.port} is in use: choose another with --port") from None
    python = inference_python() if options.engine.kind == "vllm" else sys.executable
    for model in options.models:
        _check_model(python, options.engine, model)
    store = load_settings(ServiceSettings).store.model_copy(update={"url": options.store})
    asyncio.run(_check_store(store))


def _check_model(python: str, engine: Engine, model: Model) -> None:
    env = os.environ | {
        "HEADRACE_INFERENCE__ENGINE": engine.kind,
        "HEADRACE_INFERENCE__MODEL": model.name,
        "HEADRACE_INFERENCE__MODEL_PATH": model.path,
        "HEADRACE_INFERENCE__OPENAI_BASE_URL": engine.url,
    }
    command = [python, "-m", "services.inference", "--check"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=CHECK_TIMEOUT_S, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        raise SetupError(lines[-1].removeprefix("error: ") if lines else done.stderr.strip())


async def _check_store(settings: StoreSettings) -> None:
    await (await open_store(settings)).close()


@contextmanager
def locked(data: Path) -> Iterator[None]:
    """Hold the data folder alone; raises SetupError."""
    try:
        (data / "run").mkdir(parents=True, exist_ok=True)
        lock = (data / "run" / "stack.lock").open("w")
    except OSError as error:
        raise SetupError(f"cannot use {data} as data folder: {error.strerror}; name another with --data") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SetupError(
                f"another 'headrace up' runs on {data}: stop it, or name another folder with --data"
            ) from None
        yield


def _start(options: UpOptions, supervisor: Supervisor) -> None:
    kafka = load_settings(ServiceSettings).kafka
    kind = choose_kafka(options.kafka)
    log_id, is_empty = "", kind == "memory"
    if kind == "jvm":
        folder = options.data.resolve() / "kafka"
        is_empty = not is_formatted(folder)
        bootstrap = start_broker(supervisor, prepare_jvm_broker(folder, cache_folder(), assets_folder()))
    elif kind == "memory":
        log_id = f"memory-{uuid.uuid4().hex[:12]}"
        layout = Topics(kafka)
        topics = layout.all_for(tuple(model.name for model in options.models))
        topics += [layout.foreign(name) for name in load_settings(IngestSettings).ingest.intake.users_topics]
        broker = prepare_memory_broker({topic.name: topic.partitions for topic in topics})
        bootstrap = start_broker(supervisor, broker)
    else:
        bootstrap = kind
    is_ours = kind in ("jvm", "memory")
    timeout_s = BROKER_START_TIMEOUT_S if is_ours else BROKER_ANSWER_TIMEOUT_S
    kafka = kafka.model_copy(update={"bootstrap": bootstrap})
    wait_for_broker(kafka, supervisor, timeout_s)
    if is_empty:
        _fill_empty_log(options, kafka.model_copy(update={"create_topics": True, "log_id": log_id or kafka.log_id}))
    say(f"kafka {bootstrap}, store {options.store}, engine {options.engine.kind}")
    specs = service_specs(
        options,
        environ=os.environ,
        bootstrap=bootstrap,
        log_id=log_id,
        stack_id=_stack_id(options.data),
        python=sys.executable,
        inference_python=inference_python() if options.engine.kind == "vllm" else sys.executable,
        new_port=free_port,
    )
    _write_stack_file(options, bootstrap, metrics_pages(specs))
    for spec in specs:
        supervisor.start(spec)
    supervisor.wait_until_ready()


def _fill_empty_log(options: UpOptions, kafka: KafkaSettings) -> None:
    """A log of our own that is new takes over what an earlier one left in the store."""
    store = load_settings(ServiceSettings).store.model_copy(update={"url": options.store})
    done = asyncio.run(fill_log(kafka, store))
    if done.num_finished or done.num_unfinished:
        say(f"the log is new: {done.num_finished} finished and {done.num_unfinished} unfinished batches recovered")


def choose_kafka(asked: str) -> str:
    """`jvm`, `memory` or an address, and a line that says which and why; raises SetupError."""
    if asked == "auto" and (given := os.environ.get("HEADRACE_KAFKA__BOOTSTRAP")):
        say(f"kafka: {given}, from HEADRACE_KAFKA__BOOTSTRAP")
        return given
    problem = java_problem() or jars_problem(cache_folder()) if asked in ("auto", "jvm") else None
    if asked == "jvm" and problem:
        raise SetupError(f"--kafka jvm: {problem}, or use --kafka memory")
    if asked == "auto" and problem is None:
        say("kafka: a single-node broker on this machine's Java")
        return "jvm"
    if asked in ("auto", "memory"):
        why = f" ({problem})" if problem else ""
        say(f"kafka: IN MEMORY{why}; the log dies with it, and its batches are recovered from the store")
        return "memory"
    return asked


def start_broker(supervisor: Supervisor, broker: LocalKafka) -> str:
    """Start a broker of our own; its address."""
    in_memory = not broker.bootstrap
    spec = ChildSpec("kafka", broker.argv, dict(os.environ), stop_order=KAFKA_ORDER, restartable=not in_memory)
    child = supervisor.start(spec, stdout=subprocess.PIPE if in_memory else None)
    if not in_memory:
        return broker.bootstrap
    assert child.process.stdout is not None
    return child.process.stdout.readline().decode().strip()


def wait_for_broker(settings: KafkaSettings, supervisor: Supervisor, timeout_s: float = BROKER_START_TIMEOUT_S) -> None:
    """Until a broker listens and answers; raises SetupError, GaveUp or Interrupted."""
    host, _, port = settings.bootstrap.split(",")[0].rpartition(":")
    deadline = time.monotonic() + timeout_s
    while True:
        supervisor.watch_once()
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
            asyncio.run(_ask_broker(settings))
            return
        except (OSError, UnavailableError) as error:
            if time.monotonic() > deadline:
                raise SetupError(
                    f"no Kafka broker answers at {settings.bootstrap} ({error}): check the address"
                ) from None
            time.sleep(BROKER_POLL_S)


async def _ask_broker(settings: KafkaSettings) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap)
    await start_client(admin, settings)
    await stop_client(admin)


def _stack_id(data: Path) -> str:
    """Six hex digits that belong to the data folder for good."""
    path = data / "stack-id"
    if not path.is_file():
        path.write_text(secrets.token_hex(3) + "\n")
    return path.read_text().strip()


def _write_stack_file(options: UpOptions, bootstrap: str, metrics: dict[str, str]) -> None:
    content = {
        "api": f"http://{HOST}:{options.port}/v1",
        "kafka": bootstrap,
        "store": options.store,
        "engine": options.engine.kind,
        "models": [model.name for model in options.models],
        "metrics": metrics,
        "pid": os.getpid(),
    }
    path = options.data / "run" / "stack.json"
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)
