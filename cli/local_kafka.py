"""How does a machine get a broker of its own? SHELL: a real single-node KRaft broker from jars, or one in memory."""

import re
import secrets
import shutil
import socket
import subprocess
import sys
import uuid
from base64 import urlsafe_b64encode
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from shared.errors import SetupError

KAFKA_VERSION = "4.3.1"
JAVA_MIN = 17
HEAP_MB = 512
TOOL_TIMEOUT_S = 300
# Below those that Linux and macOS give to outgoing connections (32768 and 49152 up).
PORTS = range(10_000, 32_000)
PORT_TRIES = 200
# Ports that nobody else is given, the oldest let go of first.
KEPT_MAX = 200
_kept: deque[socket.socket] = deque()

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{advertised}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={logs}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
offsets.retention.minutes=43200
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
auto.create.topics.enable=false
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
"""


@dataclass(frozen=True, slots=True)
class LocalKafka:
    """A broker to be started: its command and its address."""

    argv: tuple[str, ...]
    bootstrap: str


def free_port() -> int:
    """A port of loopback that is free now, and that no connection is given before somebody listens on it.

    On Linux nobody else is given it either while it is one of the last KEPT_MAX of this process.
    """
    for _ in range(PORT_TRIES):
        port = PORTS.start + secrets.randbelow(len(PORTS))
        probe = socket.socket()
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            probe.close()
            continue
        _keep(probe)
        return port
    raise SetupError(f"no port of 127.0.0.1 between {PORTS.start} and {PORTS.stop} is free")


def _keep(probe: socket.socket) -> None:
    """Stay bound without listening, which Linux allows beside a listener if both say so, as all servers here do."""
    if sys.platform == "linux":
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _kept.append(probe)
        if len(_kept) > KEPT_MAX:
            _kept.popleft().close()
    else:
        probe.close()


def java_problem() -> str | None:
    """Why no JVM broker can run here, or None."""
    java = shutil.which("java")
    if java is None:
        return f"no java on the path: install Java {JAVA_MIN} or newer"
    shown = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r'version "(\d+)', shown.stderr + shown.stdout)
    if found is None or int(found[1]) < JAVA_MIN:
        return f"java is version {found[1] if found else 'unknown'}: install Java {JAVA_MIN} or newer"
    return None


def jars_folder(cache: Path) -> Path:
    """Where the broker's jars are."""
    return cache / f"kafka-{KAFKA_VERSION}" / "lib"


def jars_problem(cache: Path) -> str | None:
    """Why the jars are not to be had, or None."""
    if jars_folder(cache).is_dir() or shutil.which("mvn"):
        return None
    return "no mvn on the path: install Maven, it fetches the broker's jars"


def fetch_jars(cache: Path, assets: Path) -> None:
    """Let Maven put the jars into the cache, once; raises SetupError."""
    target = jars_folder(cache)
    if target.is_dir():
        return
    partial = target.with_name(f"lib.{uuid.uuid4().hex[:8]}")
    command = [
        "mvn",
        "-q",
        "-B",
        "-f",
        str(assets / "pom.xml"),
        "dependency:copy-dependencies",
        f"-DoutputDirectory={partial}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_TIMEOUT_S, check=False)
    if done.returncode != 0:
        reason = (done.stdout + done.stderr).strip().splitlines()[:1]
        raise SetupError(f"Maven could not fetch the broker's jars: {' '.join(reason)}")
    try:
        partial.rename(target)
    except OSError:
        shutil.rmtree(partial)  # somebody else was faster


def is_formatted(data: Path) -> bool:
    """Whether a broker kept its log here before."""
    return (data / "log" / "meta.properties").is_file()


def prepare_jvm_broker(data: Path, cache: Path, assets: Path, *, advertised_port: int = 0) -> LocalKafka:
    """Format the log directory on first use and write the broker's properties; raises SetupError.

    Clients are sent to `advertised_port` when it is not 0, for a proxy in front of the broker.
    """
    fetch_jars(cache, assets)
    data.mkdir(parents=True, exist_ok=True)
    broker, controller = free_port(), free_port()
    properties = data / "server.properties"
    properties.write_text(
        _PROPERTIES.format(
            broker=broker, advertised=advertised_port or broker, controller=controller, logs=data / "log"
        )
    )
    # Without the optimising compiler: beside the services on a few cores it costs more than its code gains, a tenth of
    # all rows a second (`make bench ONLY=echo`).
    log_config = f"-Dlog4j2.configurationFile={assets / 'log4j2.properties'}"
    java = ("java", "-XX:TieredStopAtLevel=1", log_config, "-cp", f"{jars_folder(cache)}/*")
    if not is_formatted(data):
        # A leading dash would be taken for an option.
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "k")
        command = [*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_TIMEOUT_S, check=False)
        if done.returncode != 0:
            raise SetupError(
                f"the broker's log at {data} cannot be formatted: {done.stderr.strip() or done.stdout.strip()}"
            )
    start = (java[0], f"-Xmx{HEAP_MB}m", "-XX:+UseSerialGC", *java[1:], "kafka.Kafka", str(properties))
    return LocalKafka(start, f"127.0.0.1:{broker}")


def prepare_memory_broker(topics: dict[str, int]) -> LocalKafka:
    """The in-memory broker with its topics; its address is known once it runs (`cli.memory_kafka`)."""
    listed = tuple(f"{name}:{partitions}" for name, partitions in topics.items())
    return LocalKafka((sys.executable, "-m", "cli.memory_kafka", *listed), "")
