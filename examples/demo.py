"""The main job from end to end: starts a stack, runs `openai_batch.py` against it, stops everything.

`make demo` runs this after it has prepared everything; the exit code is 0 only if every line came back exactly once.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from cli.local_kafka import free_port

EMBEDDING_MODEL, CHAT_MODEL = "all-MiniLM-L6-v2", "tiny-chat"
STOP_TIMEOUT_S = 120


def models(engine: str, chat: str) -> tuple[list[str], str]:
    """What `--model` gets, and the name of the chat model in requests."""
    if engine == "echo":
        return [EMBEDDING_MODEL, CHAT_MODEL], CHAT_MODEL
    cache = Path(os.environ.get("HEADRACE_CACHE") or Path.home() / ".cache" / "headrace") / "models"
    embedding = f"{EMBEDDING_MODEL}={cache / EMBEDDING_MODEL}"
    if chat:
        name = Path(chat).name if Path(chat).is_dir() else chat
        return [embedding, f"{name}={chat}"], name
    return [embedding, f"{CHAT_MODEL}={cache / CHAT_MODEL}"], CHAT_MODEL


def explain(engine: str, chat: str) -> None:
    """Say what is real and what is not."""
    if engine == "echo":
        print("engine: echo, a stub: replies repeat the question, embeddings are hashes, so neighbours mean nothing\n")
    elif not chat:
        print("engine: vLLM inside the workers. all-MiniLM-L6-v2 has its real weights; the chat model is a tiny one")
        print("made on this machine with random weights: ITS WORDS ARE NOISE. MODEL=name or folder runs a real one\n")


def wait_until_ready(process: subprocess.Popen[str]) -> bool:
    """Pass the stack's output through until it is ready; False when it ends before."""
    assert process.stdout is not None
    for line in process.stdout:
        print(f"  [stack] {line}", end="", flush=True)
        if line.startswith("ready "):
            return True
    return False


def main() -> int:
    """Run the demo; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="vllm", choices=["vllm", "echo"])
    parser.add_argument("--model", default="", help="chat model: a hub name or a folder")
    arguments = parser.parse_args()
    data, port = Path(tempfile.mkdtemp(prefix="headrace-demo-")), free_port()
    named, chat_model = models(arguments.engine, arguments.model)
    explain(arguments.engine, arguments.model)
    command = [
        sys.executable,
        "-m",
        "cli",
        "up",
        "--engine",
        arguments.engine,
        "--port",
        str(port),
        "--data",
        str(data),
    ]
    command += [part for model in named for part in ("--model", model)]
    if arguments.engine == "vllm" and not arguments.model:
        command.append("--vllm-arg=--dtype=float32")  # how both models' weights are stored
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stack:
        # A closed terminal or a `kill` must not leave the stack behind.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            if not wait_until_ready(stack):
                return stack.wait() or 1
            print(f"  [demo] stack ready after {time.monotonic() - began:.0f} s, its data is in {data}\n", flush=True)
            example = Path(__file__).with_name("openai_batch.py")
            options = ["--base-url", f"http://127.0.0.1:{port}/v1", "--out", str(data / "results")]
            options += ["--embedding-model", EMBEDDING_MODEL, "--chat-model", chat_model]
            return subprocess.run([sys.executable, str(example), *options], check=False).returncode
        finally:
            threading.Thread(target=lambda: [None for _ in stack.stdout or ()], daemon=True).start()
            stack.send_signal(signal.SIGTERM)
            stack.wait(STOP_TIMEOUT_S)
            print(f"\neverything stopped; files: {data / 'store'} and {data / 'results'}")


if __name__ == "__main__":
    sys.exit(main())
