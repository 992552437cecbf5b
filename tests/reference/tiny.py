"""Tiny checkpoints of every family, in the hub's layout, made of a description alone.

A description is `families/NAME.json`: config.json as the hub has it, and each tensor's
name, shape, mean and standard deviation. `tests/support/tiny.rs` makes the same values,
bit for bit, so that no checkpoint is committed.
"""

import hashlib
import json
from pathlib import Path

import numpy

HERE = Path(__file__).parent


def description(name: str) -> dict:
    return json.loads((HERE / "families" / f"{name}.json").read_text())


def values(name: str, shape: list[int], mean: float, std: float) -> numpy.ndarray:
    """Returns a tensor of f32: `mean + std * z`, z nearly normal and a function of name and index.

    z is the sum of the four 16-bit parts of a 64-bit hash, less its mean 131070, by its
    standard deviation 37837. The hash is splitmix64's of FNV-1a(name) + index. All in
    whole numbers and f64, rounded once: the same in every language.
    """
    start = 0xCBF29CE484222325
    for byte in name.encode():
        start = (start ^ byte) * 0x100000001B3 % 2**64
    count = int(numpy.prod(shape))
    with numpy.errstate(over="ignore"):
        h = (numpy.uint64(start) + numpy.arange(count, dtype=numpy.uint64)) * numpy.uint64(0x9E3779B97F4A7C15)
        h = (h ^ (h >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        h ^= h >> numpy.uint64(31)
    part = numpy.uint64(0xFFFF)
    total = sum((h >> numpy.uint64(shift)) & part for shift in (0, 16, 32, 48))
    z = (total.astype(numpy.float64) - 131070.0) / 37837.0
    return (mean + std * z).astype(numpy.float32).reshape(shape)


def ids(name: str, count: int, vocabulary: int) -> list[int]:
    """Returns the tokens of a case: from the low bits of the values' hash."""
    z = values(name, [count], 0.0, 1.0)
    return [int(bits) % vocabulary for bits in z.view(numpy.uint32)]


def tensors(family: dict):
    """Yields each tensor's name and values, in the description's order."""
    for name, shape, mean, std in family["tensors"]:
        yield name, values(name, shape, mean, std)


def digest(family: dict) -> str:
    """Returns the SHA-256 of all values, one after the other: what both makers must agree on."""
    hashed = hashlib.sha256()
    for _, data in tensors(family):
        hashed.update(data.tobytes())
    return hashed.hexdigest()


def bf16(data: numpy.ndarray) -> numpy.ndarray:
    """Rounds f32 to the bits of bf16, to nearest, ties to even; values are finite."""
    bits = data.view(numpy.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(numpy.uint16)


STORED = {"F32": lambda data: data, "F16": lambda data: data.astype(numpy.float16), "BF16": bf16}


def write(family: dict, out: Path, dtype: str = "F32") -> None:
    """Writes config.json and model.safetensors into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(family["config"]))
    header, parts, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name, data in tensors(family):
        stored = STORED[dtype](data).tobytes()
        header[name] = {"dtype": dtype, "shape": list(data.shape), "data_offsets": [offset, offset + len(stored)]}
        parts.append(stored)
        offset += len(stored)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with (out / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(parts)
