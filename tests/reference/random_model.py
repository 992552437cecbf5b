#!/usr/bin/env python3
"""Writes a model of random weights with the shapes of a Llama 2 7B, for measuring.

    random_model.py OUT_DIR [--layers 2] [--hidden 4096] [--inner 11008] [--vocab 32000] [--cache DIR]

As it stands: 667 million parameters, 1.33 GB of F16, in one file. Nothing larger than a
piece of a tensor is held. A finished OUT_DIR is left as it is. Installs numpy into the
environment of make_checkpoint.py.
"""

import argparse
import json
import os
from pathlib import Path

from environment import default_cache, enter

PIECE = 1 << 22
CHAT = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", type=Path)
    for name, size in [("layers", 2), ("hidden", 4096), ("inner", 11008), ("vocab", 32000)]:
        arguments.add_argument(f"--{name}", type=int, default=size)
    arguments.add_argument("--cache", type=Path, default=default_cache())
    options = arguments.parse_args()
    if not (options.out / "model.safetensors").exists():
        enter(options.cache, "checkpoint", ["numpy==2.4.6", "gguf==0.19.0"])
        make(options)
    print(options.out)


def make(options) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    hidden, inner, vocab = options.hidden, options.inner, options.vocab
    config = {
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "num_attention_heads": hidden // 128,
        "num_hidden_layers": options.layers,
        "num_key_value_heads": hidden // 128,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "vocab_size": vocab,
    }
    for name, content in [
        ("config.json", config),
        ("tokenizer.json", tokenizer(vocab)),
        ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "chat_template": CHAT}),
    ]:
        (options.out / name).write_text(json.dumps(content), encoding="utf-8")
    shapes = {"lm_head": (vocab, hidden), "model.embed_tokens": (vocab, hidden), "model.norm": (hidden,)}
    for layer in range(options.layers):
        for part in ("q", "k", "v", "o"):
            shapes[f"model.layers.{layer}.self_attn.{part}_proj"] = (hidden, hidden)
        for part, shape in [("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner))]:
            shapes[f"model.layers.{layer}.mlp.{part}_proj"] = shape
        for part in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{layer}.{part}"] = (hidden,)
    write({f"{name}.weight": shapes[name] for name in sorted(shapes)}, options.out / "model.safetensors")


def tokenizer(size: int) -> dict:
    """Returns byte pairs over bytes: every byte, then pairs of them until there are enough."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in shown]
    characters = [chr(byte) for byte in shown] + [chr(256 + place) for place in range(len(others))]
    specials = ["<unk>", "<s>", "</s>"]
    pairs = [(a, b) for a in characters for b in characters][: size - len(characters) - len(specials)]
    texts = [*specials, *characters, *(a + b for a, b in pairs)]
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": place, "content": text, **flags} for place, text in enumerate(specials)],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {text: place for place, text in enumerate(texts)},
            "merges": [f"{a} {b}" for a, b in pairs],
        },
    }


def write(shapes: dict[str, tuple[int, ...]], out: Path) -> None:
    """Writes F16: norms about 1, all else normal with a deviation of 0.02."""
    import numpy

    random = numpy.random.default_rng(7)
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        end = offset + 2 * int(numpy.prod(shape))
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = out.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            left = int(numpy.prod(shape))
            while left:
                values = random.standard_normal(min(left, PIECE), dtype=numpy.float32) * numpy.float32(0.02)
                if len(shape) == 1:
                    values += 1
                file.write(values.astype(numpy.float16).tobytes())
                left -= values.size
    os.replace(partial, out)


if __name__ == "__main__":
    main()
