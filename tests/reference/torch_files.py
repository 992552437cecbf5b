#!/usr/bin/env python3
"""Writes tiny checkpoints with torch itself, as zip archive and as legacy stream.

    torch_files.py OUT_DIR [--cache DIR]

OUT_DIR gets `zip.bin`, `legacy.bin` and `tensors.json`: the type, shape and SHA-256 of
the bytes of every tensor. They are committed, as tests/reference/golden/torch. Tensors are
seeded, but torch writes a fresh id into each archive: files differ from run to run.

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

    def described(tensor: torch.Tensor) -> dict:
        values = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "sha256": hashlib.sha256(values).hexdigest(),
        }

    tensors = {name: described(tensor) for name, tensor in state.items()}
    (out / "tensors.json").write_text(json.dumps(tensors, indent=1) + "\n")


if __name__ == "__main__":
    main()
