#!/usr/bin/env python3
"""Writes what tests compare each family with, by transformers in f32 on the CPU.

    families.py NAME... [--cache DIR]      every family without a NAME

To add a family: write families/NAME.json with
    about        one line
    config       config.json as the hub has it, small (rows of 256 or more, so that every
                 type of block is used; 2 to 4 layers)
    vocabulary   bytes, pieces or unigram: which tokenizer.json tests/support/tiny.rs writes
    is_exact     whether logits agree to 1e-4: no GELU, which llama.cpp reads off a table of f16
    cases        numbers of tokens; past the window where llama.cpp's graph has one, up to
                 the capped context where it has not; pairs [encoder, decoder] for T5
    gain         how large matrices are, 1 where it is left out: below it for families that
                 do not scale attention, whose random logits would be all noise
    differs      keys and tensors that llama.cpp's own converter makes otherwise (see stock.py),
                 each with the reason why that is not followed
then run this. It adds `tensors` (name, shape, mean and standard deviation) as transformers
stores the model: edit names where the hub's files differ, and run it again, which keeps them.
It writes golden/families/NAME.safetensors: for each case `ids`, `argmax` and `logits` at
`columns`. Then `BRAMBLE_UPDATE_GOLDEN=1 cargo nextest run --no-default-features --test families`
writes golden/families/NAME.json; read it, see stock.py, and commit all of them.

Installs torch and transformers into the environment of logits.py.
"""

import argparse
import json
import math
import tempfile
from pathlib import Path

from environment import default_cache, enter

COLUMNS = 32
PACKAGES = ["torch==2.15.0", "numpy==2.4.6", "transformers==5.23.0", "tokenizers==0.23.2", "safetensors==0.8.0"]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("names", nargs="*")
    arguments.add_argument("--cache", type=Path, default=default_cache())
    options = arguments.parse_args()
    enter(options.cache, "logits", PACKAGES)
    import tiny

    for name in options.names or sorted(path.stem for path in (tiny.HERE / "families").glob("*.json")):
        family = tiny.description(name)
        if "tensors" not in family:
            family["tensors"] = describe(family)
        family["sha256"] = tiny.digest(family)
        save(tiny.HERE / "families" / f"{name}.json", family)
        write_logits(name, family, tiny.HERE / "golden" / "families" / f"{name}.safetensors")


def save(path: Path, family: dict) -> None:
    """Writes a description with a line for each tensor."""
    tensors = ",\n".join(f"    {json.dumps(tensor)}" for tensor in family["tensors"])
    text = json.dumps({**family, "tensors": [], "sha256": family["sha256"]}, indent=2)
    path.write_text(text.replace('"tensors": []', f'"tensors": [\n{tensors}\n  ]') + "\n")


def model_class(config: dict):
    import transformers

    return getattr(transformers, config["architectures"][0])


def describe(family: dict) -> list:
    """Returns name, shape, mean and standard deviation of all that transformers stores."""
    from safetensors import safe_open
    from transformers import AutoConfig

    with tempfile.TemporaryDirectory() as dir:
        (Path(dir) / "config.json").write_text(json.dumps(family["config"]))
        model = model_class(family["config"])(AutoConfig.from_pretrained(dir))
        model.save_pretrained(dir)
        with safe_open(f"{dir}/model.safetensors", "np") as file:
            shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}
    return [[name, shape, *spread(name, shape, family)] for name, shape in sorted(shapes.items())]


def spread(name: str, shape: list[int], family: dict) -> tuple[float, float]:
    """Returns mean and standard deviation that keep activations and logits about 1."""
    if len(shape) > 1:
        return 0.0, float(f"{family.get('gain', 1.0) / math.sqrt(shape[-1]):.3g}")
    # Gemma's norms multiply by 1 + weight
    is_scale = name.endswith("weight") and not family["config"]["model_type"].startswith("gemma")
    return (1.0 if is_scale else 0.0), 0.1


def write_logits(name: str, family: dict, out: Path) -> None:
    import tiny
    import torch
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as dir:
        tiny.write(family, Path(dir))
        model, loading = model_class(family["config"]).from_pretrained(
            dir, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
    left = {kind: names for kind, names in loading.items() if names}
    if left:
        raise SystemExit(f"{name}: transformers loads the description otherwise: {left}")
    check_head(model, family)
    model.eval()
    vocabulary = family["config"].get("text_config", family["config"])["vocab_size"]
    columns = torch.arange(COLUMNS) * (vocabulary // COLUMNS) + 1
    golden = {"columns": columns.to(torch.int32)}
    for case in family["cases"]:
        with torch.no_grad():
            if isinstance(case, list):
                title = f"{case[0]}-{case[1]}"
                encoder = torch.tensor([tiny.ids(f"{name} encoder {title}", case[0], vocabulary)])
                ids = torch.tensor([tiny.ids(f"{name} {title}", case[1], vocabulary)])
                ids[0, 0] = model.config.decoder_start_token_id
                logits = model(input_ids=encoder, decoder_input_ids=ids).logits[0]
                golden[f"{title}.encoder"] = encoder[0].to(torch.int32)
            else:
                title = str(case)
                ids = torch.tensor([tiny.ids(f"{name} {title}", case, vocabulary)])
                logits = model(ids).logits[0]
        golden[f"{title}.ids"] = ids[0].to(torch.int32)
        golden[f"{title}.argmax"] = logits.argmax(dim=1).to(torch.int32)
        golden[f"{title}.logits"] = logits[:, columns].contiguous()
        print(f"{name} {title}: standard deviation of logits {logits.std():.3f}")
    save_file(golden, out)


def check_head(model, family: dict) -> None:
    """Sees to it that a head of its own was not tied to the embeddings after all."""
    import tiny
    import torch

    head = [tensor for tensor in family["tensors"] if tensor[0] == "lm_head.weight"]
    if head and not torch.equal(model.lm_head.weight, torch.from_numpy(tiny.values(*head[0]))):
        raise SystemExit("transformers does not take the head that the description has")


if __name__ == "__main__":
    main()
