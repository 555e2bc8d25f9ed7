"""Writes a chat model with random weights, for machines without a model hub: its words are noise.

Usage: make_tiny_model.py FOLDER [tiny|small]

`tiny` costs nearly nothing to run, `small` (15 million parameters) about 10 ms of CPU a request: it is for the bench.
"""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

SEED = 20_261_121
VOCABULARY = 1_536
CONTEXT_TOKENS = 4_096
END, START, STOP = "<|end|>", "<|start|>", "<|stop|>"
# Width, width of the feed-forward part, layers, heads, key-value heads. Heads of 32 are the least that CPU attention
# takes.
SHAPES = {"tiny": (64, 160, 2, 2, 1), "small": (384, 1_024, 8, 12, 4)}
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "<|start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for part in m['content'] or [] %}{{ part.get('text', '') }}{% endfor %}{% endif %}"
    "<|stop|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the repository's own prose."""
    root = Path(__file__).parents[2]
    texts = [
        path.read_text()
        for path in sorted([*root.glob("*.md"), *root.glob("examples/*"), *root.glob("shared/*.py")])
        if path.is_file()
    ]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[END, START, STOP], initial_alphabet=alphabet)
    bpe.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=STOP, pad_token=END, model_max_length=CONTEXT_TOKENS)
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return fast


def write_model(folder: Path, shape: str) -> None:
    """Qwen2's architecture, a good deal smaller."""
    words = tokenizer(folder)
    hidden, intermediate, layers, heads, kv_heads = SHAPES[shape]
    torch.manual_seed(SEED)
    config = Qwen2Config(
        vocab_size=(len(words) + 63) // 64 * 64,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=words.convert_tokens_to_ids(STOP),
        pad_token_id=words.convert_tokens_to_ids(END),
    )
    Qwen2ForCausalLM(config).to(torch.float32).save_pretrained(folder)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    write_model(target, sys.argv[2] if len(sys.argv) > 2 else "tiny")
