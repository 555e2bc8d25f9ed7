"""Where do the servers of a test run come from? Given, else containers, else processes, else stand-ins.

Tests get addresses only and do not know the provider. What no provider could serve is listed at the end of the run,
and with CI=true a server that was promised and is missing fails it.
"""

import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cli.local_kafka import free_port, jars_problem, java_problem, prepare_jvm_broker
from cli.supervisor import die_with_parent
from cli.up import assets_folder, cache_folder

START_TIMEOUT_S = 60.0
ACCESS_KEY, SECRET_KEY = "headrace-test", "headrace-test-secret"
_ROOT = Path(__file__).parent.parent
VERSIONS = dict(line.split("=") for line in (_ROOT / "deploy/local/versions.env").read_text().split())
_GIVEN = {
    "kafka": "TEST_KAFKA_BOOTSTRAP",
    "minio": "TEST_MINIO_ENDPOINT",
    "versitygw": "TEST_VERSITY_ENDPOINT",
    "jaeger": "TEST_JAEGER_OTLP",
}
_IMAGES = {
    "kafka": "confluentinc/cp-kafka:8.1.0",
    "minio": "pgsty/minio:latest",
    "versity": "versity/versitygw:v1.8.0",
    "jaeger": "jaegertracing/jaeger:2.20.0",
}
# `live` answers 200 while every request is still refused.
_MINIO_READY = "/minio/health/cluster"


@dataclass
class Server:
    """A server of the run: where it came from, its addresses, and how to end it."""

    provider: str
    address: str
    extra: dict[str, str] = field(default_factory=dict)
    stop: Callable[[], None] = lambda: None


class NotAvailableError(Exception):
    """No provider can serve this here."""


@functools.cache
def docker_answers() -> bool:
    """Whether a Docker engine can be used."""
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if host.startswith("unix://") and not _accepts(host.removeprefix("unix://")):
        return False  # asked first, because the client leaks its sockets when nobody answers
    from testcontainers.core.docker_client import DockerClient

    try:
        client = DockerClient().client
        answers = bool(client.ping())
        client.close()
    except Exception:
        return False
    return answers


def _accepts(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def binary(name: str) -> Path:
    """Where the cache has the program of a local server."""
    version = VERSIONS[f"{name.upper()}_VERSION"]
    return cache_folder() / f"{name}-{version}" / name


def plan() -> dict[str, str]:
    """Which provider each server would come from, without starting any; `none` = it cannot be exercised here."""
    docker = docker_answers()
    local = "jvm" if java_problem() is None and jars_problem(cache_folder()) is None else "memory"
    planned = {"kafka": "docker" if docker else local, "store": "directory"}
    for name in ("minio", "versitygw", "jaeger"):
        planned[name] = "docker" if docker else "process" if binary(name).is_file() else "none"
    for name, variable in _GIVEN.items():
        if os.environ.get(variable):
            planned[name] = "given"
    return planned


def start_kafka() -> Server:
    """A broker: TEST_KAFKA_BOOTSTRAP, a container, a JVM, or the one in memory."""
    if given := os.environ.get("TEST_KAFKA_BOOTSTRAP"):
        return Server("given", given)
    if docker_answers():
        from testcontainers.community.kafka import KafkaContainer

        container = KafkaContainer(_IMAGES["kafka"]).with_kraft()
        container.with_env("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false")
        container.start()
        return Server("docker", container.get_bootstrap_server(), stop=container.stop)
    if java_problem() is None and jars_problem(cache_folder()) is None:
        return _start_jvm_kafka()
    return start_memory_kafka()


def start_memory_kafka(topics: tuple[str, ...] = ()) -> Server:
    """The in-memory broker in a process of its own."""
    command = [sys.executable, "-m", "cli.memory_kafka", *topics]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=die_with_parent)
    assert process.stdout is not None
    address = process.stdout.readline().decode().strip()
    return Server("memory", address, {"pid": str(process.pid)}, stop=_ender(process))


def _start_jvm_kafka() -> Server:
    folder = Path(tempfile.mkdtemp(prefix="headrace-kafka-"))
    broker = prepare_jvm_broker(folder, cache_folder(), assets_folder())
    process = _spawn(list(broker.argv), folder / "kafka.log")
    host, port = broker.bootstrap.split(":")
    _wait(lambda: _connects(host, int(port)), "kafka", process, folder / "kafka.log")
    return Server("jvm", broker.bootstrap, {"pid": str(process.pid)}, stop=_ender(process, folder))


def start_minio() -> Server:
    """MinIO: a container or the binary in the cache."""
    if given := os.environ.get("TEST_MINIO_ENDPOINT"):
        return Server("given", given)
    env = {"MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": SECRET_KEY}
    if docker_answers():
        return _start_container("minio", env, 9000, "server /data", _MINIO_READY)
    program = binary("minio")
    if not program.is_file():
        raise NotAvailableError("no Docker engine and no minio binary in the cache (make tools)")
    folder, port = Path(tempfile.mkdtemp(prefix="headrace-minio-")), free_port()
    command = [str(program), "server", "--quiet", "--address", f"127.0.0.1:{port}", str(folder / "data")]
    process = _spawn(command, folder / "log", env | {"MINIO_BROWSER": "off"})
    _wait(lambda: _answers(f"http://127.0.0.1:{port}{_MINIO_READY}"), "minio", process, folder / "log")
    return Server("process", f"http://127.0.0.1:{port}", stop=_ender(process, folder))


def start_versity() -> Server:
    """The Versity gateway: a container or the binary in the cache."""
    if given := os.environ.get("TEST_VERSITY_ENDPOINT"):
        return Server("given", given)
    env = {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
    if docker_answers():
        return _start_container("versity", env, 7070, "posix /tmp")
    program = binary("versitygw")
    if not program.is_file():
        raise NotAvailableError("no Docker engine and no versitygw binary in the cache (make tools)")
    folder, port = Path(tempfile.mkdtemp(prefix="headrace-versity-")), free_port()
    (folder / "data").mkdir()
    command = [str(program), "--port", f"127.0.0.1:{port}", "--quiet", "posix", str(folder / "data")]
    process = _spawn(command, folder / "log", env)
    _wait(lambda: _connects("127.0.0.1", port), "versitygw", process, folder / "log")
    return Server("process", f"http://127.0.0.1:{port}", stop=_ender(process, folder))


def start_jaeger() -> Server:
    """Jaeger: a container or the binary in the cache; `extra` has the query address."""
    if given := os.environ.get("TEST_JAEGER_OTLP"):
        return Server("given", given, {"query": os.environ["TEST_JAEGER_QUERY"]})
    if docker_answers():
        from testcontainers.core.container import DockerContainer

        container = DockerContainer(_IMAGES["jaeger"]).with_exposed_ports(4318, 16686)
        container.start()
        host = container.get_container_host_ip()
        query = f"http://{host}:{container.get_exposed_port(16686)}"
        _wait(lambda: _answers(f"{query}/api/v3/services"), "jaeger", None, None)
        otlp = f"http://{host}:{container.get_exposed_port(4318)}"
        return Server("docker", otlp, {"query": query}, container.stop)
    program = binary("jaeger")
    if not program.is_file():
        raise NotAvailableError("no Docker engine and no jaeger binary in the cache (make tools)")
    return _start_jaeger_process(program)


def _start_jaeger_process(program: Path) -> Server:
    folder = Path(tempfile.mkdtemp(prefix="headrace-jaeger-"))
    otlp, query = free_port(), free_port()
    (folder / "jaeger.yaml").write_text(
        _JAEGER_CONFIG.format(otlp=otlp, query=query, grpc=free_port(), metrics=free_port())
    )
    process = _spawn([str(program), "--config", str(folder / "jaeger.yaml")], folder / "log")
    address = f"http://127.0.0.1:{query}"
    _wait(lambda: _answers(f"{address}/api/v3/services"), "jaeger", process, folder / "log")
    return Server("process", f"http://127.0.0.1:{otlp}", {"query": address}, _ender(process, folder))


_JAEGER_CONFIG = """\
service:
  extensions: [jaeger_storage, jaeger_query]
  pipelines:
    traces: {{receivers: [otlp], exporters: [jaeger_storage_exporter]}}
  telemetry:
    metrics:
      level: none
extensions:
  jaeger_storage:
    backends:
      memory: {{memory: {{max_traces: 10000}}}}
  jaeger_query:
    storage: {{traces: memory}}
    http: {{endpoint: "127.0.0.1:{query}"}}
    grpc: {{endpoint: "127.0.0.1:{grpc}"}}
receivers:
  otlp: {{protocols: {{http: {{endpoint: "127.0.0.1:{otlp}"}}}}}}
exporters:
  jaeger_storage_exporter: {{trace_storage: memory}}
"""


def _start_container(name: str, env: dict[str, str], port: int, command: str, ready: str | None = None) -> Server:
    from testcontainers.core.container import DockerContainer

    container = DockerContainer(_IMAGES[name]).with_exposed_ports(port).with_command(command)
    for key, value in env.items():
        container = container.with_env(key, value)
    container.start()
    host, mapped = container.get_container_host_ip(), int(container.get_exposed_port(port))
    address = f"http://{host}:{mapped}"
    _wait(lambda: _answers(f"{address}{ready}") if ready else _connects(host, mapped), name, None, None)
    return Server("docker", address, stop=container.stop)


def _spawn(command: list[str], log: Path, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(
            command,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            env=os.environ | (env or {}),
            preexec_fn=die_with_parent,
        )


def _ender(process: subprocess.Popen[bytes], folder: Path | None = None) -> Callable[[], None]:
    def end() -> None:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    return end


def _wait(ready: Callable[[], bool], name: str, process: subprocess.Popen[bytes] | None, log: Path | None) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ready():
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{name} ended: {log.read_text()[-2000:] if log else ''}")
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"{name} did not start in {START_TIMEOUT_S:.0f} s: {log.read_text()[-2000:] if log else ''}"
            )
        time.sleep(0.1)


def _connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False
