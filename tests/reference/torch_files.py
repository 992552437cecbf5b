#!/usr/bin/env python3
"""Writes tiny checkpoints with torch itself, as zip archive and as legacy stream.

    torch_files.py OUT_DIR [--cache DIR]

OUT_DIR gets `zip.bin`, `legacy.bin` and `tensors.json`: the type, shape and SHA-256 of
the bytes of every tensor. `vicuna` and `alpaca` get a base, differences and the tensors of
their sum, added as FastChat's apply_delta and Stanford Alpaca's weight_diff do. They are
committed, as tests/reference/golden/torch. Tensors are seeded, but torch writes a fresh id
into each archive: files differ from run to run.

Installs torch into an environment of its own: see logits.py.
"""

import argparse
import hashlib
import json
from pathlib import Path

from environment import default_cache, enter


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--cache", type=Path, default=default_cache())
    options = arguments.parse_args()
    packages = ["numpy==2.4.6", "transformers==5.23.0", "tokenizers==0.23.2", "safetensors==0.8.0"]
    enter(options.cache, "logits", ["torch==2.15.0", *packages])
    write(options.out)


def write(out: Path) -> None:
    import torch

    torch.manual_seed(3)

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = torch.nn.Linear(6, 4)
            self.coarse = torch.nn.Parameter(torch.randn(3, 5).half())
            self.brainy = torch.nn.Parameter(torch.randn(2, 2, 2).bfloat16())
            self.register_buffer("mask", torch.tril(torch.ones(3, 3, dtype=torch.bool)).view(1, 1, 3, 3))
            self.register_buffer("masked_bias", torch.tensor(-1e9))
            self.register_buffer("positions", torch.arange(4))

    state = Block().state_dict()
    # a view into the middle of another's storage, the same tensor twice, a parameter, nothing
    state["rows"] = state["proj.weight"][1:3]
    state["tied"] = state["proj.weight"]
    state["parameter"] = torch.nn.Parameter(torch.randn(2, 3))
    state["empty"] = torch.zeros(0, 4)
    out.mkdir(parents=True, exist_ok=True)
    torch.save(state, out / "zip.bin")
    torch.save(state, out / "legacy.bin", _use_new_zipfile_serialization=False)
    describe(state, out / "tensors.json")
    write_vicuna(out / "vicuna")
    write_alpaca(out / "alpaca")


def describe(state: dict, path: Path, **more) -> None:
    import torch

    def described(tensor: torch.Tensor) -> dict:
        values = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "sha256": hashlib.sha256(values).hexdigest(),
        }

    tensors = {name: described(tensor) for name, tensor in state.items()}
    path.write_text(json.dumps(tensors | more, indent=1) + "\n")


def save(state: dict, folder: Path) -> None:
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "pytorch_model.bin")


NAMES = ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight", "lm_head.weight"]


def write_vicuna(out: Path) -> None:
    """Both are loaded as f16, whatever the base is stored as, and added as such."""
    import torch

    shapes = [(8, 6), (6, 6), (6,), (8, 6)]
    base = {name: torch.randn(shape) for name, shape in zip(NAMES, shapes)}
    delta = {name: (torch.randn(shape) / 8).half() for name, shape in zip(NAMES, shapes)}
    save(base, out / "base")
    save(delta, out / "delta")
    describe({name: base[name].half() + delta[name] for name in NAMES}, out / "sum.json")


def write_alpaca(out: Path) -> None:
    """In f32; both embeddings of the base get a row more, the mean of the others."""
    import torch

    def seeded(*shape: int) -> torch.Tensor:
        # sixty-fourths, and 4 rows to take the mean of: nothing is rounded, in any order
        return torch.randint(-512, 512, shape) / 64

    base = dict(zip(NAMES, [seeded(4, 6), seeded(6, 6), seeded(6), seeded(4, 6)]))
    delta = dict(zip(NAMES, [seeded(5, 6), seeded(6, 6), seeded(6), seeded(5, 6)]))
    base = {name: tensor.half() for name, tensor in base.items()}
    save(base, out / "base")
    save(delta, out / "delta")

    def resized(name: str) -> torch.Tensor:
        tensor = base[name].float()
        grows = tensor.shape != delta[name].shape
        return torch.cat([tensor, tensor.mean(dim=0, keepdim=True)]) if grows else tensor

    recovered = {name: delta[name] + resized(name) for name in NAMES}
    describe(recovered, out / "sum.json", total=float(sum(tensor.sum() for tensor in recovered.values())))


if __name__ == "__main__":
    main()
