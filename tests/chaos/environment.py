"""Where a chaos run happens: a real broker and a real S3 server behind proxies, or a broker in memory and a folder."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import urllib3
from minio import Minio

from cli.local_kafka import free_port, prepare_jvm_broker
from cli.memory_kafka import MemoryKafka
from cli.up import assets_folder, cache_folder
from shared.settings import KafkaSettings
from shared.topics import Topics
from tests.chaos.fleet import Child, Fleet
from tests.chaos.proxy import Proxy
from tests.chaos.segments import ListKeys, ReadObject, in_bucket, in_folder
from tests.otlp_sink import serve_otlp_sink
from tests.providers import ACCESS_KEY, SECRET_KEY, binary

MODEL = "echo"
DISK_MB = 300
EXPIRY_WINDOW_S = 8


@dataclass
class Environment:
    """Everything a run needs to know of the processes around it."""

    folder: Path
    fleet: Fleet
    bootstrap: str
    topics: Topics
    api_ports: list[int]
    tier: str
    # Where each service shows its metrics.
    pages: dict[str, str] = field(default_factory=dict)
    proxies: dict[str, Proxy] = field(default_factory=dict)
    memory: MemoryKafka | None = None
    disks: dict[str, Path] = field(default_factory=dict)
    store_env: dict[str, str] = field(default_factory=dict)
    # Where spans go; nobody listens there if it is empty.
    otlp: str = ""
    pool: urllib3.PoolManager = field(default_factory=urllib3.PoolManager)

    @property
    def store(self) -> tuple[ListKeys, ReadObject]:
        """How a verifier looks at the segments, past every proxy."""
        if self.tier == "memory":
            return in_folder(self.folder / "store")
        address = f"127.0.0.1:{self.proxies['store'].target_port}"
        client = Minio(
            endpoint=address, access_key=ACCESS_KEY, secret_key=SECRET_KEY, secure=False, http_client=self.pool
        )
        return in_bucket(client, "chaos")


@contextmanager
def environment(tier: str, service_module: str = "", disk_mb: int = DISK_MB, **overrides: str) -> Iterator[Environment]:
    """Start everything, and in the end stop all processes and remove all folders.

    `service_module` wraps the services, for twins; `disk_mb` 0 = the store and the scratch cannot be filled up.
    """
    folder = Path(tempfile.mkdtemp(prefix="headrace-chaos-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        fleet = Fleet()
        # What runs without a rule may not find its end.
        stack.callback(fleet.stop, timeout_s=1.0 if service_module else 20.0)
        kafka_settings = KafkaSettings(topic_prefix="chaos.")
        topics = Topics(kafka_settings)
        if tier == "real":
            env = _start_real(folder, fleet, topics, stack, disk_mb)
        else:
            env = _start_memory(folder, fleet, topics, stack)
        env.otlp = stack.enter_context(serve_otlp_sink()).address
        # Twins are that too.
        _start_services(env, service_module or ("tests.chaos.patient_leader" if tier == "memory" else ""), overrides)
        stack.callback(env.pool.clear)
        fleet.watch()
        yield env


def _start_real(folder: Path, fleet: Fleet, topics: Topics, stack: contextlib.ExitStack, disk_mb: int) -> Environment:
    kafka_proxy, store_proxy = Proxy(), Proxy()
    for proxy in (kafka_proxy, store_proxy):
        stack.callback(proxy.close)
    disks = {name: disk for name in ("store", "scratch") if (disk := _mount(folder / name, stack, disk_mb))}
    broker = prepare_jvm_broker(folder / "kafka", cache_folder(), assets_folder(), advertised_port=kafka_proxy.port)
    kafka_proxy.target_port = int(broker.bootstrap.rpartition(":")[2])
    fleet.add(Child("kafka", broker.argv, dict(os.environ), folder / "kafka.log", restart_after_s=1.0))
    store_proxy.target_port = free_port()
    minio = [str(binary("minio")), "server", "--quiet", "--address", f"127.0.0.1:{store_proxy.target_port}"]
    minio_env = {"MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": SECRET_KEY, "MINIO_BROWSER": "off"}
    fleet.add(
        Child("store", [*minio, str(folder / "store" / "data")], os.environ | minio_env, folder / "store.log", 1.0)
    )
    store_env = {
        "HEADRACE_STORE__URL": "s3://chaos",
        "HEADRACE_STORE__S3_ENDPOINT": f"http://127.0.0.1:{store_proxy.port}",
        "HEADRACE_STORE__S3_ACCESS_KEY": ACCESS_KEY,
        "HEADRACE_STORE__S3_SECRET_KEY": SECRET_KEY,
    }
    proxies = {"kafka": kafka_proxy, "store": store_proxy}
    bootstrap = f"127.0.0.1:{kafka_proxy.port}"
    return Environment(folder, fleet, bootstrap, topics, [], "real", proxies=proxies, disks=disks, store_env=store_env)


def _start_memory(folder: Path, fleet: Fleet, topics: Topics, stack: contextlib.ExitStack) -> Environment:
    names = {topic.name: topic.partitions for topic in topics.all_for((MODEL,))}
    memory = MemoryKafka(names, brokers=3)
    stack.callback(memory.close)
    store_env = {
        "HEADRACE_STORE__URL": f"file://{folder}/store",
        "HEADRACE_KAFKA__LOG_ID": "memory",
        # The broker in memory holds a fetch for its whole time, a JoinGroup for a session, and 5 MB a partition.
        "HEADRACE_KAFKA__FETCH_MAX_WAIT_MS": "50",
        "HEADRACE_KAFKA__SESSION_TIMEOUT_S": "6",
        "HEADRACE_KAFKA__REBALANCE_TIMEOUT_S": "6",
        "HEADRACE_INGEST__OUTSTANDING_LINES_PER_BATCH": "300",
        "HEADRACE_INGEST__OUTSTANDING_LINES_PER_TENANT": "300",
    }
    return Environment(folder, fleet, memory.bootstrap, topics, [], "memory", memory=memory, store_env=store_env)


def _start_services(env: Environment, service_module: str, overrides: dict[str, str]) -> None:
    # Services run at their own speed, not at that of measured ones.
    common = (
        {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
        | {
            "HEADRACE_KAFKA__BOOTSTRAP": env.bootstrap,
            "HEADRACE_KAFKA__TOPIC_PREFIX": "chaos.",
            "HEADRACE_KAFKA__CREATE_TOPICS": "true",
            "HEADRACE_CONTRACT__WINDOWS": "free",
            "HEADRACE_MODELS": json.dumps([MODEL]),
            "HEADRACE_INFERENCE__ENGINE": "echo",
            "HEADRACE_INFERENCE__MODEL": MODEL,
            "HEADRACE_INFERENCE__STATIC_MEMBER": "true",
            "HEADRACE_INFERENCE__WINDOW": "64",
            "HEADRACE_INFERENCE__ECHO__LATENCY_S": "0.05",
            "HEADRACE_INFERENCE__ECHO__JITTER_S": "0.3",
            "HEADRACE_TELEMETRY__OTLP_ENDPOINT": env.otlp,
            "HEADRACE_TELEMETRY__SAMPLE_RATIO": "0.2",
        }
        | env.store_env
        | overrides
    )
    for number, window in enumerate(("86400", str(EXPIRY_WINDOW_S))):
        env.api_ports.append(free_port())
        own = {
            "HEADRACE_INGEST__PORT": str(env.api_ports[-1]),
            "HEADRACE_INGEST__COMPLETION_WINDOW_S": window,
            "HEADRACE_INGEST__INSTANCE_ID": f"ingest-{number}",
            "HEADRACE_INGEST__VIEW_PATH": str(env.folder / f"view-{number}.sqlite"),
        }
        _add_service(env, "ingest", number, common | own, service_module)
    for number in range(2):
        # Unlike flush thresholds, or two owners of a partition write the same segments and hide a lost race.
        own = {
            "HEADRACE_COLLECTOR__INDEX": str(number),
            "HEADRACE_COLLECTOR__COUNT": "2",
            "HEADRACE_COLLECTOR__SEGMENT_AGE_S": str(0.7 + number * 0.6),
        }
        if "scratch" in env.disks:
            own["HEADRACE_COLLECTOR__SCRATCH_DIR"] = str(env.disks["scratch"])
        _add_service(env, "collector", number, common | own, service_module)
    rival = {"HEADRACE_COLLECTOR__SEGMENT_AGE_S": "0.9"}
    _add_service(env, "collector", 2, common | rival, service_module)
    for number in range(2):
        _add_service(env, "inference", number, common | {"HEADRACE_INFERENCE__WORKER_ID": f"w{number}"}, service_module)


def _add_service(env: Environment, name: str, number: int, settings: dict[str, str], module: str) -> None:
    argv = [sys.executable, "-m", *([module] if module else []), f"services.{name}"]
    child, port = f"{name}-{number}", free_port()
    env.pages[child] = f"http://127.0.0.1:{port}/metrics"
    settings = settings | {"HEADRACE_HEALTH__PORT": str(port)}
    env.fleet.add(Child(child, argv, settings, env.folder / f"{child}.log"))


def why_not_ready(port: int) -> str | None:
    """What the API says is missing before it would take a batch; None = nothing."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
            return None
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except OSError as error:
        return repr(error)


def _mount(folder: Path, stack: contextlib.ExitStack, disk_mb: int) -> Path | None:
    """A small disk of its own, where this is allowed; otherwise a folder, and disks that are full are not tried."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={disk_mb}m", "tmpfs", str(folder)]
    if not disk_mb or sys.platform != "linux":
        return None
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        return None  # not allowed here
    stack.callback(subprocess.run, ["umount", "-l", str(folder)], check=False)
    return folder
