"""Writes a LoRA adapter with random weights for a model folder; runs in the environment with vLLM.

Usage: make_lora.py MODEL_FOLDER ADAPTER_FOLDER
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

RANK, SEED, TARGETS = 4, 11, ("q_proj", "v_proj")


def main(model_folder: Path, adapter_folder: Path) -> None:
    """Large enough that answers differ from the model's own."""
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    torch.manual_seed(SEED)
    tensors = {}
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in TARGETS:
            rows, columns = module.weight.shape
            tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(RANK, columns)
            tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(rows, RANK)
    adapter_folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, adapter_folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(model_folder),
        "r": RANK,
        "lora_alpha": 4 * RANK,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(TARGETS),
    }
    (adapter_folder / "adapter_config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
