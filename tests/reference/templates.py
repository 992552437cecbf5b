#!/usr/bin/env python3
"""Lays out real chat templates, each with what `transformers` makes of many conversations.

    templates.py OUT_DIR [--cache DIR]

OUT_DIR/conversations.json is a list of {"name", "body"}: what a client of OpenAI's API sends.
OUT_DIR/templates.json has for each template {"name", "source", "expected"}; "expected" has for
each conversation {"text"}, or {"refused"}: why there is none, and in "raised" whether the
template itself says so. A message that only calls has no content; where a template cannot do
without, it is the empty text. OUT_DIR/settings.json has the texts of the tokens that begin and end a
text, and the moment that it is.

The templates are those in llama.cpp's sources, from a package of PyPI that has them. Installs
what it needs into an environment of its own, and downloads some 100 MB once.
"""

import argparse
import datetime
import hashlib
import json
import shutil
import sys
import tarfile
from pathlib import Path

from environment import default_cache, enter
from vocabularies import LLAMA_CPP, download

PACKAGES = ["transformers==5.24.0", "jinja2==3.1.6", "tokenizers==0.23.3"]
SHA_256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
# Changes with this script: an OUT_DIR of another version is made again.
VERSION = "1"

# Of one digit, where a format may have it as two.
NOW = datetime.datetime(2026, 3, 5, 9, 7, 4)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Says how the weather is: 20 °C <now> & \"later\", at the user's place.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Like Zürich, or 東京; <b>not</b> a country's name"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
                "days": {"type": "integer", "minimum": 1, "maximum": 14},
                "where": {
                    "type": "object",
                    "description": "Instead of the city",
                    "properties": {
                        "latitude": {"type": "number", "minimum": -90.0, "maximum": 90},
                        "longitude": {"type": "number", "default": 0.5},
                    },
                    "required": ["latitude", "longitude"],
                },
            },
            "required": ["city"],
        },
    },
}
NOTE = {
    "type": "function",
    "function": {
        "name": "write_note",
        "description": "Keeps a note.\nIt has\ttags.",
        "parameters": {
            "type": "object",
            "properties": {
                "text": {"type": "string", "description": "What it says"},
                "tags": {
                    "type": "array",
                    "description": "How it is found",
                    "items": {
                        "type": "object",
                        "properties": {"name": {"type": "string"}, "weight": {"type": ["number", "null"]}},
                    },
                },
                "pinned": {"type": "boolean", "default": False},
                "by": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            },
            "required": ["text", "tags"],
            "additionalProperties": False,
        },
    },
}
TOOLS = [WEATHER, NOTE]
ODD = "  “Ça va?” \"yes\" 'no' \\n <b>&amp;</b> {{ x }} {% y %}\n\n\tline\r\n東京 🦀 e\u0301 \u00a0\u2028 </s> "


def say(role: str, content: str | None, **more) -> dict:
    return {"role": role, "content": content, **more}


def call(id: str, name: str, arguments: dict) -> dict:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def answer(id: str, name: str, content: str) -> dict:
    return {"role": "tool", "content": content, "tool_call_id": id, "name": name}


def conversations() -> list[tuple[str, list[dict], list[dict]]]:
    """Returns a name, messages and tools of each. One that the assistant ends is gone on with."""
    be_kind, hello = say("system", "Be kind."), say("user", "Hello!")
    weather = call("aB3dE6gH9", "get_weather", {"city": "Zürich", "days": 3})
    note = call("Zz0000001", "write_note", {
        "text": "It's <5 °C> & \"cold\"\nin 東京", "tags": [{"name": "a", "weight": 1.5}, {"name": "b", "weight": None}],
        "pinned": True,
    })
    rain = answer("aB3dE6gH9", "get_weather", "{\"rain\": true, \"°C\": 4.5}")
    kept = answer("Zz0000001", "write_note", "kept\n<ok> & 'fine'")
    asked = say("user", "How is the weather in Zürich?")
    short = [hello, say("assistant", "Hi. What can I do?"), say("user", "Tell me a joke.")]
    plot = call("n00000000", "plot", {
        "small": 1e-7, "big": 1e16, "whole": 2.0, "minus": -0.5, "count": 3, "yes": True, "none": None,
        "list": [1, "two's", None, False], "nested": {"a": {"b": [], "c": {}}}, "text": "one\n<two>",
    })
    nameless = {"role": "tool", "content": "rain", "tool_call_id": "aB3dE6gH9"}
    many = [turn for n in range(6) for turn in (say("user", f"Say {n}"), say("assistant", f"{n}!"))]
    return [
        ("user", [hello], []),
        ("system", [be_kind, hello], []),
        ("developer", [say("developer", "Be kind."), hello], []),
        ("turns", [be_kind, *short, say("assistant", "No.\n"), say("user", " Please ")], []),
        ("turns without system", short, []),
        ("odd texts", [say("system", ODD), say("user", ODD), say("assistant", ODD), say("user", ODD)], []),
        ("thoughts", [hello, say("assistant", "<think>\nHm, <b>.\n</think>\n\nHi."), hello], []),
        ("empty texts", [say("system", ""), say("user", ""), say("assistant", ""), hello], []),
        ("two users", [hello, asked], []),
        ("two systems", [be_kind, hello, say("assistant", "Hi."), say("system", "Be brief."), asked], []),
        ("many turns", [*many, asked], []),
        ("tools", [asked], TOOLS),
        ("tools and system", [be_kind, asked], TOOLS),
        ("one tool", [be_kind, say("user", ODD)], [WEATHER]),
        ("bare tool", [asked], [{"type": "function", "function": {"name": "now"}}]),
        ("call", [asked, say("assistant", None, tool_calls=[weather]), rain], TOOLS),
        ("call without tools", [asked, say("assistant", None, tool_calls=[weather]), rain], []),
        ("call and system", [be_kind, asked, say("assistant", None, tool_calls=[note]), kept], TOOLS),
        ("call with empty text", [asked, say("assistant", "", tool_calls=[weather]), rain], TOOLS),
        ("call with text", [asked, say("assistant", "I'll look.\n", tool_calls=[weather]), rain], TOOLS),
        ("call of nothing", [asked, say("assistant", None, tool_calls=[call("a00000000", "now", {})]),
                             answer("a00000000", "now", "noon")], TOOLS),
        ("call with many kinds", [asked, say("assistant", None, tool_calls=[plot]), answer("n00000000", "plot", "ok")],
         TOOLS),
        ("answer without name", [asked, say("assistant", None, tool_calls=[weather]), nameless], TOOLS),
        ("parallel calls", [asked, say("assistant", None, tool_calls=[weather, note]), rain, kept], TOOLS),
        ("calls in turn", [be_kind, asked, say("assistant", None, tool_calls=[weather]), rain,
                           say("assistant", None, tool_calls=[note]), kept], TOOLS),
        ("after a call", [asked, say("assistant", None, tool_calls=[weather]), rain,
                          say("assistant", "It rains."), say("user", "Thanks & bye")], TOOLS),
        ("call at the end", [asked, say("assistant", None, tool_calls=[weather])], TOOLS),
        ("parallel calls at the end", [asked, say("assistant", None, tool_calls=[note, weather])], TOOLS),
        ("continued", [hello, say("assistant", "Well, I")], []),
        ("continued behind a space", [be_kind, hello, say("assistant", "Well, ")], []),
        ("continued after a call", [asked, say("assistant", None, tool_calls=[weather]), rain,
                                    say("assistant", "It")], TOOLS),
    ]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--cache", type=Path, default=default_cache())
    options = arguments.parse_args()
    stamp = options.out / "version"
    if stamp.exists() and stamp.read_text() == VERSION:
        print(f"{options.out} is finished already")
        return
    enter(options.cache, "templates", PACKAGES)
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    sdist = download(options.cache, LLAMA_CPP, ["--no-binary", "llama-cpp-python"])
    sources = from_sdist(sdist)
    tokenizer = make_tokenizer()
    cases = conversations()
    found = []
    for name, source in sources.items():
        expected = {of: render(tokenizer, source, messages, tools) for of, messages, tools in cases}
        refused = sum("refused" in it for it in expected.values())
        print(f"{name}: {len(expected)} conversations, {refused} refused")
        found.append({"name": name, "source": source, "expected": expected})
    put(options.out / "templates.json", found)
    put(options.out / "conversations.json", [
        {"name": of, "body": as_request(messages, tools)} for of, messages, tools in cases])
    put(options.out / "settings.json", {**TOKENS, "now": NOW.isoformat()})
    stamp.write_text(VERSION)


def put(path: Path, content) -> None:
    path.write_text(json.dumps(content, indent=1))


def from_sdist(sdist: Path) -> dict[str, str]:
    """Returns the templates in llama.cpp's sources, by name."""
    digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if digest != SHA_256:
        sys.exit(f"{sdist} is not what it was: its SHA-256 is {digest}, not {SHA_256}")
    sources = {}
    with tarfile.open(sdist) as archive:
        for member in archive:
            path = Path(member.name)
            if path.match("llama.cpp/models/templates/*.jinja") and (data := archive.extractfile(member)):
                sources[path.stem] = data.read().decode()
    return dict(sorted(sources.items()))


def make_tokenizer():
    """Returns a tokenizer of no words, on a day that is always the same."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import chat_template_utils

    class Stopped(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return NOW

    chat_template_utils.datetime = Stopped
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({}, "")), **TOKENS)


def render(tokenizer, source: str, messages: list[dict], tools: list[dict]) -> dict:
    import jinja2

    is_continued = messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls")
    filled = [{**message, "content": message["content"] or ""} for message in messages]
    try:
        text = tokenizer.apply_chat_template(
            messages, tools or None, chat_template=source, tokenize=False,
            add_generation_prompt=not is_continued, continue_final_message=is_continued)
    except Exception as error:  # a template may fail as Python code does
        if filled != messages:
            return render(tokenizer, source, filled, tools)
        raised = type(error) is jinja2.TemplateError
        return {"refused": str(error) if raised else f"{type(error).__name__}: {error}", "raised": raised}
    return {"text": text}


def as_request(messages: list[dict], tools: list[dict]) -> dict:
    """Returns the body of a request: there arguments are JSON as text."""
    messages = json.loads(json.dumps(messages))
    for message in messages:
        for called in message.get("tool_calls", []):
            called["function"]["arguments"] = json.dumps(called["function"]["arguments"])
    return {"model": "m", "messages": messages, **({"tools": tools} if tools else {})}


if __name__ == "__main__":
    main()
