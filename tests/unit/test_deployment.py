"""The compose file and the Dockerfile, as far as they can be looked at without a Docker engine.

Every variable that a service gets is one that its settings know, every target of a build exists, and what the build
installs from is complete.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from services.collector.settings import CollectorSettings
from services.inference.settings import InferenceSettings
from services.ingest.settings import IngestSettings
from shared.settings import load_settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
SETTINGS: dict[str, Any] = {
    "ingest": IngestSettings,
    "collector": CollectorSettings,
    "inference": InferenceSettings,
    "inference-gpu": InferenceSettings,
}
_DEFAULT = re.compile(r"\$\{[A-Z0-9_]+:-([^}]*)\}")


def of_image(target: str) -> dict[str, str]:
    """Variables that the image of a target sets, its base's included."""
    found: dict[str, str] = {}
    for name in ("base", target):
        stage = re.search(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
        assert stage is not None, f"there is no target {name}"
        found |= dict(re.findall(r"(HEADRACE_[A-Z0-9_]+)=(\S+)", stage[1]))
    return found


def environment(name: str) -> dict[str, str]:
    """What a container of ours has, with the defaults of the compose file."""
    service = COMPOSE["services"][name]
    given = {key: _DEFAULT.sub(r"\1", value) for key, value in service["environment"].items()}
    return of_image(service["build"]["target"]) | given


@pytest.mark.parametrize("name", SETTINGS)
def test_services_understand_what_they_are_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in environment(name).items():
        assert isinstance(value, str), f"{key} is no text"
        monkeypatch.setenv(key, value)
    settings = load_settings(SETTINGS[name])
    assert settings.kafka.bootstrap == "kafka:9092"
    assert settings.health.port == 9464
    assert settings.store.url == "s3://headrace"
    assert settings.models == ("echo",)
    if name.startswith("inference"):
        is_stub = settings.inference.engine == "echo"
        assert is_stub == (settings.inference.model == "echo"), "the stub would answer a real model's lines"


@pytest.mark.parametrize("name", SETTINGS)
def test_services_wait_for_what_they_need_and_have_few_rights(name: str) -> None:
    service = COMPOSE["services"][name]
    needed = service["depends_on"]
    assert set(needed) == {"kafka", "minio"}
    assert all(on["condition"] == "service_healthy" for on in needed.values())
    assert all(COMPOSE["services"][on]["healthcheck"]["test"] for on in needed)
    assert service["cap_drop"] == ["ALL"] and "no-new-privileges:true" in service["security_opt"]


def test_without_a_profile_a_batch_could_run() -> None:
    always = {name for name, service in COMPOSE["services"].items() if "profiles" not in service}
    assert always == {"kafka", "minio", "ingest", "collector", "inference"}
    named = {volume.partition(":")[0] for s in COMPOSE["services"].values() for volume in s.get("volumes", ())}
    assert {name for name in named if not name.startswith(".")} == set(COMPOSE["volumes"])
    mounted = [name for name in named if name.startswith(".")]
    assert all((ROOT / "deploy" / name).exists() for name in mounted)
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in published), "nothing is open to other machines by itself"


def test_images_are_pinned_run_as_nobody_and_say_how_they_are() -> None:
    for service in COMPOSE["services"].values():
        if image := service.get("image"):
            assert re.search(r":v?[0-9A-Z][\w.-]+$", image) and not image.endswith(":latest"), image
    base = DOCKERFILE.partition(" AS base\n")[2].partition("\nFROM ")[0]
    assert "USER headrace" in base and "HEALTHCHECK" in base


def test_build_finds_what_it_copies_and_installs_by_hash() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line.removeprefix("!").rstrip("/") for line in ignored if line.startswith("!")}
    assert all((ROOT / name).exists() for name in kept)
    assert {"cli", "services", "shared", "deploy/constraints", "deploy/local"} <= kept
    lists = re.findall(r"-r (deploy/constraints/\S+)", DOCKERFILE)
    assert len(lists) == 2
    for accelerator in ("gpu", "cpu"):
        for name in lists:
            text = (ROOT / name.replace("${ACCELERATOR}", accelerator)).read_text()
            assert "--hash=sha256:" in text
    assert DOCKERFILE.count("--require-hashes") == len(lists)
    modules = re.findall(r'CMD \["python", "-m", "([\w.]+)"\]', DOCKERFILE)
    assert all((ROOT / module.replace(".", "/") / "__main__.py").is_file() for module in modules) and modules


def test_prometheus_scrapes_the_ports_that_the_images_open() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yaml").read_text())
    targets = {
        target for job in config["scrape_configs"] for each in job["static_configs"] for target in each["targets"]
    }
    assert targets == {f"{name}:9464" for name in ("ingest", "collector", "inference")}
