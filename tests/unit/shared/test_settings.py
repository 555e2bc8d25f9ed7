"""A wrong environment is refused with a sentence that names the variable, the value and the expectation."""

import pytest

from services.collector.settings import CollectorSettings
from services.inference.settings import InferenceSettings
from services.ingest.settings import IngestSettings
from shared.errors import SetupError
from shared.settings import load_settings


def test_values_nest_and_types_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_KAFKA__BOOTSTRAP", "broker:1")
    monkeypatch.setenv("HEADRACE_MODELS", '["a", "b"]')
    monkeypatch.setenv("HEADRACE_INFERENCE__ECHO__LATENCY_S", "0.5")

    settings = load_settings(InferenceSettings)

    assert settings.kafka.bootstrap == "broker:1"
    assert settings.models == ("a", "b")
    assert settings.inference.echo.latency_s == 0.5


def test_other_services_variables_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_INFERENCE__MODEL", "m")
    monkeypatch.setenv("HEADRACE_CACHE", "/somewhere")

    load_settings(IngestSettings)


@pytest.mark.parametrize(
    "name", ["HEADRACE_PROT", "HEADRACE_INGEST__PROT", "HEADRACE_KAFKA__BOOTSTRAPS", "headrace_kafka__x"]
)
def test_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")

    with pytest.raises(SetupError, match=f"unknown setting {name}"):
        load_settings(IngestSettings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HEADRACE_INGEST__PORT", "70000"),
        ("HEADRACE_INGEST__BATCH_LINES_MAX", "many"),
        ("HEADRACE_TELEMETRY__SAMPLE_RATIO", "2"),
        ("HEADRACE_DRAIN_TIMEOUT_S", "0"),
    ],
)
def test_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(SetupError, match=name) as refused:
        load_settings(IngestSettings)
    assert value in str(refused.value)


def test_list_that_is_not_json_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_MODELS", "a,b")

    with pytest.raises(SetupError, match="JSON"):
        load_settings(IngestSettings)


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_STORE__S3_SECRET_KEY", "hush")

    assert "hush" not in repr(load_settings(CollectorSettings))


def test_collector_index_must_be_below_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_COLLECTOR__INDEX", "2")
    monkeypatch.setenv("HEADRACE_COLLECTOR__COUNT", "2")

    with pytest.raises(SetupError, match="below count"):
        load_settings(CollectorSettings)
