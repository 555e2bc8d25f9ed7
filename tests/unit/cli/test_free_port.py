"""A port that a server will listen on in a moment: nobody's now, and none that connections are given meanwhile."""

import socket
import sys

import pytest

from cli import local_kafka
from cli.local_kafka import PORTS, free_port
from shared.errors import SetupError

EPHEMERAL_MIN = 32_768


def test_ports_are_below_those_of_connections() -> None:
    assert all(free_port() in PORTS for _ in range(20))
    assert PORTS.stop <= EPHEMERAL_MIN


def test_port_that_is_taken_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setattr(local_kafka, "PORTS", range(port, port + 1))
        with pytest.raises(SetupError, match="is free"):
            free_port()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a port be kept for a server")
def test_port_is_kept_for_whoever_asked() -> None:
    port = free_port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    with socket.create_server(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
