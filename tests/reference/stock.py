#!/usr/bin/env python3
"""Writes what llama.cpp's own converter makes of the tiny checkpoints, for tests to compare with.

    stock.py [NAME...] [--cache DIR]       every family without a NAME
    stock.py [--cache DIR] --run ARGUMENT...

Runs convert_hf_to_gguf.py to F32 and to F16, and writes golden/families/NAME.stock.json:
each tensor's shape, types and digests, and the architecture's keys. A family that the
converter does not know is named, and gets no file. The tokenizer is left out: tiny
checkpoints have vocabularies that no converter knows. With --run the script is run as it
is, with these arguments, but that it takes any byte-level vocabulary for GPT-2's.

The converter is that of the PyPI package llama-cpp-python, whose sources carry it whole;
the crate llama-cpp-sys-2 carries the same script without its modules. Installs torch and
transformers into the environment of logits.py, beside which the sources are kept.
"""

import argparse
import hashlib
import json
import logging
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from environment import default_cache, enter
from families import PACKAGES

SDIST = "llama-cpp-python==0.3.36"
FOLDER = "vendor/llama.cpp"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("names", nargs="*")
    arguments.add_argument("--cache", type=Path, default=default_cache())
    arguments.add_argument("--run", nargs=argparse.REMAINDER)
    options = arguments.parse_args()
    enter(options.cache, "logits", PACKAGES)
    converter = sources(options.cache)
    sys.path[:0] = [str(converter), str(converter / "gguf-py")]
    if options.run is not None:
        run(options.run)
        return
    import tiny

    for name in options.names or sorted(path.stem for path in (tiny.HERE / "families").glob("*.json")):
        family = tiny.description(name)
        with tempfile.TemporaryDirectory() as dir:
            tiny.write(family, Path(dir))
            # Gemma 3's converter counts the tokens, to cut the embedding to as many rows
            size = family["config"].get("text_config", family["config"])["vocab_size"]
            counted = {"model": {"vocab": {str(token): token for token in range(size)}}, "added_tokens": []}
            (Path(dir) / "tokenizer.json").write_text(json.dumps(counted))
            single = convert(Path(dir), "ALL_F32")
            half = single and convert(Path(dir), "MOSTLY_F16")
        if single is None:
            print(f"{name}: {family['config']['architectures'][0]} is not known")
            continue
        keys, tensors = single
        assert tensors.keys() == half[1].keys()
        merged = {
            tensor: {"shape": shape, "F32": seen, "F16": half[1][tensor][1]} for tensor, (shape, seen) in tensors.items()
        }
        save(tiny.HERE / "golden" / "families" / f"{name}.stock.json", {"keys": keys, "tensors": merged})
        print(f"{name}: {len(merged)} tensors")


def sources(cache: Path) -> Path:
    """Returns the folder of the converter, downloaded on the first call."""
    home = cache / SDIST.replace("==", "-")
    if not (home / "convert_hf_to_gguf.py").exists():
        with tempfile.TemporaryDirectory(dir=cache) as dir:
            # named, not :all:, since the package's own build needs wheels
            command = ["download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python", "--dest", dir, SDIST]
            subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *command], check=True)
            [sdist] = Path(dir).glob("*.tar.gz")
            with tarfile.open(sdist) as archive:
                root = f"{archive.next().name.split('/')[0]}/{FOLDER}/"
                wanted = [f"{root}{part}" for part in ("convert_hf_to_gguf.py", "conversion/", "gguf-py/")]
                members = [member for member in archive.getmembers() if member.name.startswith(tuple(wanted))]
                archive.extractall(dir, members, filter="data")
            (Path(dir) / root).rename(home)
    return home


def run(arguments: list[str]) -> None:
    import convert_hf_to_gguf
    from conversion.base import TextModel

    def has_none(model):
        raise FileNotFoundError("tokenizer.model")

    # as it finds, too, but with sentencepiece, which the environment has not
    TextModel._create_vocab_sentencepiece = has_none
    TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
    sys.argv = ["convert_hf_to_gguf.py", *arguments]
    convert_hf_to_gguf.main()


def convert(dir: Path, file_type: str):
    """Returns keys and tensors of the GGUF; none if the converter does not know the architecture."""
    import gguf
    import torch
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    logging.disable(logging.WARNING)
    try:
        model = get_model_class(get_model_architecture(ModelBase.load_hparams(dir, False), ModelType.TEXT))
    except NotImplementedError:
        return None

    model.set_vocab = lambda self: None
    out = dir / "stock.gguf"
    # transformers renames some keys, which the converter then misses
    config = {**json.loads((dir / "config.json").read_text()), **ModelBase.load_hparams(dir, False)}
    with torch.inference_mode():
        model(dir, getattr(gguf.LlamaFileType, file_type), out, hparams=config).write()
    reader = gguf.GGUFReader(out)
    architecture = reader.fields["general.architecture"].contents()
    keys = {
        name: field.contents() for name, field in reader.fields.items() if name.startswith(f"{architecture}.")
    }
    tensors = {
        tensor.name: (
            [int(length) for length in tensor.shape],
            f"{tensor.tensor_type.name} {hashlib.sha256(tensor.data.tobytes()).hexdigest()}",
        )
        for tensor in reader.tensors
    }
    return {"general.architecture": architecture, **keys}, tensors


def save(path: Path, golden: dict) -> None:
    """Writes JSON with an entry a line."""
    parts = []
    for part, entries in golden.items():
        lines = ",\n".join(f"    {json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items())
        parts.append(f'  "{part}": {{\n{lines}\n  }}')
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")


if __name__ == "__main__":
    main()
