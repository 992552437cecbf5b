#!/usr/bin/env python3
"""Writes reference logits of a checkpoint, by transformers in f32 on the CPU.

    logits.py CHECKPOINT OUT.safetensors [--cache DIR]

OUT holds `ids` (the tokens of the text below), `argmax` (the likeliest next token
at each position), `columns` (256 vocabulary entries, spread evenly) and `logits`
(f32, positions by columns), and is small enough to be committed.

Installs torch, transformers and tokenizers into an environment of its own. On x86-64
PyPI has torch only with CUDA, and that build does not start without its libraries:
5.6 GB on disk, though only the CPU is used.
"""

import argparse
from pathlib import Path

from environment import default_cache, enter

TEXT = """The Raspberry Pi is a series of small single-board computers developed in the United Kingdom. \
It was first meant for the teaching of basic computer science in schools, and in 2012 the first model \
sold far more widely than anyone had expected. Today it measures rainfall, plays music, drives robots \
and answers questions; a fleet of them can do all of these at once.

```python
def mean(values):
    return sum(values) / len(values)
```

Question: What is the capital of France?
Answer: Paris. The city has about 2.1 million inhabitants, and the river Seine runs through it.

Un petit pas pour l'homme, un bond de géant pour l'humanité. 3 + 4 = 7, and 12 * 12 = 144. \
Once upon a time there was a little bear who lived at the edge of a great forest with her mother."""

COLUMNS = 256


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("checkpoint", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--cache", type=Path, default=default_cache())
    options = arguments.parse_args()
    packages = ["numpy==2.4.6", "transformers==5.23.0", "tokenizers==0.23.2", "safetensors==0.8.0"]
    enter(options.cache, "logits", ["torch==2.15.0", *packages])
    write(options.checkpoint, options.out)


def write(checkpoint: Path, out: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([Tokenizer.from_file(str(checkpoint / "tokenizer.json")).encode(TEXT).ids])
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        logits = model(ids).logits[0]
    columns = torch.arange(COLUMNS) * (logits.shape[1] // COLUMNS)
    save_file(
        {
            "ids": ids[0].to(torch.int32),
            "argmax": logits.argmax(dim=1).to(torch.int32),
            "columns": columns.to(torch.int32),
            "logits": logits[:, columns].contiguous(),
        },
        out,
    )
    print(f"{out}: {logits.shape[0]} positions, standard deviation of logits {logits.std():.3f}")


if __name__ == "__main__":
    main()
