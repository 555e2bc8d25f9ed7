"""Writes a tiny chat model with random weights, for machines without a model hub: its words are noise.

Usage: make_tiny_model.py FOLDER
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


def write_model(folder: Path) -> None:
    """Qwen2's shape at a quarter of a million parameters; heads of 32, the least that CPU attention takes."""
    words = tokenizer(folder)
    torch.manual_seed(SEED)
    config = Qwen2Config(
        vocab_size=(len(words) + 63) // 64 * 64,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
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
    write_model(target)
