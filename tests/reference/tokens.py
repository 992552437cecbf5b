#!/usr/bin/env python3
"""Writes what Hugging Face `tokenizers` makes of strings on which tokenizers differ.

    tokens.py CHECKPOINT OUT.json [--cache DIR]

OUT is a list of {"text", "ids"}. Special tokens in a text are read as such, and none
are added around it. Installs tokenizers into an environment of its own.
"""

import argparse
import json
from pathlib import Path

from environment import default_cache, enter

TEXTS = [
    "", " ", "  ", "   ", "\n", "\n\n", "\t", " \n ", "\r\n", "\n \n\t\n",
    "Hello", " Hello", "Hello ", "Hello  world", "   leading", "trailing   ", "Hello, world!",
    "I'm you're he'll we've they'd it's can't", "I'M YOU'RE HE'LL", "''''", "don’t",
    "0", "42", "123456789", "3.14159", "1,000,000", "a1b2c3", "²³¹ ½ Ⅷ", "٣٤٥",
    "camelCaseWord snake_case_word", "http://example.org/a?b=c&d=e#f", "user@example.org",
    "def f(x):\n    return x ** 2\n", "if (a != b) { c++; } // why", "\t\tindented\n\t\tagain",
    "café naïve Übermut", "cafe\u0301", "ﬁ ligature", "Привет, мир", "你好，世界", "こんにちは世界", "한국어 조선말", "שלום עולם", "مرحبا",
    "🙂", "👩‍👩‍👧‍👦 🇫🇷 👍🏽", "\u200b\u200d\ufeff", "a\u00a0b\u3000c", "\u0000\u0001\u007f",
    "<|im_start|>user\nHi<|im_end|>\n", "<|endoftext|>", "a<|im_start|>b", " <|im_end|> ", "<|im_start", "<|unknown|>",
    "!!!!!!!! ???? .... ----", "a" * 100, " " * 40 + "x", "ſ ẞ İ ı", "\U0001d54f\U0001d54f", "…—–“”", "x\u2028y\u0085z",
]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("checkpoint", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--cache", type=Path, default=default_cache())
    options = arguments.parse_args()
    enter(options.cache, "tokens", ["tokenizers==0.23.2"])
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(options.checkpoint / "tokenizer.json"))
    cases = [{"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids} for text in TEXTS]
    lines = ",\n".join(json.dumps(case) for case in cases)
    options.out.write_text(f"[\n{lines}\n]\n")
    print(f"{options.out}: {len(cases)} texts")


if __name__ == "__main__":
    main()
