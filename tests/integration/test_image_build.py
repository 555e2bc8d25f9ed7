"""The steps of the image that all services but vLLM's share, taken from the Dockerfile and done here."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
STEP_TIMEOUT_S = 600


def test_steps_of_the_image_make_a_working_environment(tmp_path: Path) -> None:
    context, prefix = tmp_path / "src", tmp_path / "headrace"
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            source, target = ROOT / line[1:], context / line[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
    stage = (ROOT / "deploy" / "Dockerfile").read_text().partition(" AS build\n")[2].partition("\nFROM ")[0]
    steps = re.findall(r"^RUN (.*)$", stage, re.MULTILINE)
    assert len(steps) == 3
    env = {name: value for name, value in os.environ.items() if not name.startswith(("VIRTUAL_ENV", "PYTHON"))}
    for step in steps:
        command = step.replace("/opt/headrace", str(prefix)).replace("python -m venv", f"{sys.executable} -m venv")
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=context,
            env=env,
            capture_output=True,
            check=False,
            text=True,
            timeout=STEP_TIMEOUT_S,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"

    env |= {"HEADRACE_KAFKA__BOOTSTRAP": "127.0.0.1:1", "HEADRACE_KAFKA__REQUEST_TIMEOUT_S": "1"}
    env |= {"HEADRACE_STORE__URL": f"file://{tmp_path}/store", "HEADRACE_INFERENCE__MODEL": "echo"}
    env |= {"HEADRACE_INFERENCE__ENGINE": "echo"}
    for service in ("ingest", "collector", "inference"):
        command = [str(prefix / "bin" / "python"), "-m", f"services.{service}"]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=False, text=True, timeout=120)
        assert done.returncode == 1 and "no Kafka broker answers" in done.stderr, done.stderr[-2000:]
    shown = subprocess.run(
        [str(prefix / "bin" / "headrace"), "--help"], capture_output=True, check=False, text=True, timeout=60
    )
    assert "doctor" in shown.stdout
