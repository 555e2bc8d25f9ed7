"""vLLM offline, on demand: `LLM.chat` over the rows of a batch file. Runs in the environment with vLLM.

    python tests/bench/vllm_offline.py FILE.jsonl '{"model": …, other arguments of LLM}'

Loads the model, writes `ready`, and for each line on standard input runs all rows once and writes the seconds.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any


def main(path: str, arguments: dict[str, Any]) -> None:
    """Serve until standard input ends."""
    from vllm import LLM, SamplingParams

    bodies = [json.loads(line)["body"] for line in Path(path).read_text().splitlines()]
    conversations = [body["messages"] for body in bodies]
    sampling = [
        SamplingParams(max_tokens=body["max_tokens"], temperature=0, ignore_eos=True, seed=None) for body in bodies
    ]
    llm = LLM(**arguments)
    llm.chat(conversations[:8], sampling[:8], use_tqdm=False)
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        outputs = llm.chat(conversations, sampling, use_tqdm=False)
        seconds = time.perf_counter() - began
        assert all(len(o.outputs[0].token_ids) == s.max_tokens for o, s in zip(outputs, sampling, strict=True))
        print(seconds, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
