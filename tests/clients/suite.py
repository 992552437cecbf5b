"""What people's clients do with a door: python suite.py URL KEY MODEL CONTEXT [base|foreign]

The `openai` package, sync and async, LiteLLM, and calls as Open WebUI makes them, against a running door. The model must be one whose template has
tools, or a `base` model, which has none and only goes on with texts; or what answers is a `foreign` server, of which only
what all of them can is asked. Prints a line for each check and ends with `N passed, N failed`; the exit code is 1 if any failed.
"""

import asyncio
import json
import sys
import traceback

import aiohttp
import litellm
import openai
import pydantic

URL, KEY, MODEL, CONTEXT = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
CLIENT = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, timeout=300)
HELLO = [{"role": "user", "content": "What is the capital of France?"}]
IS_BASE = sys.argv[5:] == ["base"]
IS_FOREIGN = sys.argv[5:] == ["foreign"]
CHECKS = []

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Bern", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


def check_text(function):
    """A check for every model of ours."""
    return function if IS_FOREIGN else check_any(function)


def check(function):
    """A check for models that chat."""
    return function if IS_BASE else check_text(function)


def check_any(function):
    """A check for whatever answers."""
    CHECKS.append(function)
    return function


def check_foreign(function):
    """A check for whatever answers and chats."""
    return function if IS_BASE else check_any(function)


def chat(**more):
    return CLIENT.chat.completions.create(**{"model": MODEL, "messages": HELLO, "max_tokens": 24, "temperature": 0, **more})


@check_any
def models_are_listed():
    assert MODEL in [model.id for model in CLIENT.models.list().data]


@check
def a_chat_is_answered_and_counted():
    reply = chat()
    assert "Paris" in reply.choices[0].message.content, reply
    assert reply.choices[0].finish_reason in ("stop", "length")
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


@check_foreign
def a_stream_says_the_same_and_ends_with_the_usage():
    whole = chat()
    chunks = list(chat(stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


@check
def headers_tell_who_answered():
    raw = CLIENT.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO, max_tokens=2)
    assert raw.headers["x-bramble-model"] == MODEL and raw.headers["x-bramble-host"]


@check_foreign
def several_answers_come_to_one_prompt():
    reply = chat(n=3, temperature=1.3, seed=1)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in reply.choices}) > 1
    texts = ["", "", ""]
    for chunk in chat(n=3, temperature=1.3, seed=1, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert all(texts)


@check_foreign
def stop_strings_and_limits_end_an_answer():
    assert "Paris" not in chat(stop=["Paris"]).choices[0].message.content
    short = chat(max_completion_tokens=3)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 3)


@check
def likelihoods_are_told():
    content = chat(logprobs=True, top_logprobs=3, max_tokens=5).choices[0].logprobs.content
    assert len(content) == 5 and all(len(token.top_logprobs) == 3 for token in content)
    assert all(token.logprob <= 0 and bytes(token.bytes).decode() == token.token for token in content)
    reply = CLIENT.completions.create(model=MODEL, prompt="The capital of France is", logprobs=2, max_tokens=3, temperature=0)
    lists = reply.choices[0].logprobs
    assert "".join(lists.tokens) == reply.choices[0].text and len(lists.top_logprobs[0]) == 2
    streamed = [chunk.choices[0].logprobs for chunk in chat(logprobs=True, max_tokens=5, stream=True)]
    assert [token.token for it in streamed if it for token in it.content] == [token.token for token in content]


class City(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    country: str = pydantic.Field(max_length=20)
    is_capital: bool


@check_foreign
def an_answer_is_an_object_of_a_class():
    reply = CLIENT.chat.completions.parse(model=MODEL, messages=HELLO, response_format=City, temperature=0, max_tokens=200)
    assert isinstance(reply.choices[0].message.parsed, City), reply


@check
def a_tool_is_called_and_its_answer_taken():
    choice = {"type": "function", "function": {"name": "weather"}}
    messages = [{"role": "user", "content": "Weather in Oslo?"}]
    message = chat(messages=messages, tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False, max_tokens=100).choices[0]
    assert message.finish_reason == "tool_calls"
    call = message.message.tool_calls[0]
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "weather" and arguments["city"] in ("Bern", "Oslo") and 1 <= arguments["days"] <= 7
    messages += [message.message, {"role": "tool", "tool_call_id": call.id, "content": "Snow."}]
    assert chat(messages=messages, tools=[WEATHER]).choices[0].finish_reason in ("stop", "length", "tool_calls")


@check
def a_call_comes_in_a_stream():
    chunks = list(chat(tools=[WEATHER], tool_choice="required", max_tokens=100, stream=True))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert calls[0].function.name == "weather" and json.loads(calls[0].function.arguments)["city"]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def refused(kind, **more):
    try:
        chat(**more)
    except kind as error:
        return error
    raise AssertionError(f"{more} was not refused")


def go_on(**more):
    return CLIENT.completions.create(**{"model": MODEL, "prompt": "The capital of France is", "max_tokens": 12, "temperature": 0, **more})


@check_text
def a_text_is_gone_on_with_in_every_way():
    whole = go_on()
    assert whole.choices[0].text.strip() and whole.usage.completion_tokens <= 12, whole
    assert "".join(chunk.choices[0].text for chunk in go_on(stream=True)) == whole.choices[0].text
    likely = go_on(logprobs=2).choices[0]
    assert "".join(likely.logprobs.tokens) == likely.text == whole.choices[0].text
    assert len({choice.text for choice in go_on(n=3, temperature=1.5, seed=3).choices}) > 1
    kept = go_on(extra_body={"json_schema": {"enum": ["Paris", "Bern"]}}).choices[0].text
    assert json.loads(kept) in ("Paris", "Bern"), kept
    try:
        go_on(prompt="word " * CONTEXT)
    except openai.BadRequestError as error:
        assert error.code == "context_length_exceeded"
        return
    raise AssertionError("a text that is too long was taken")


@check_text
def a_base_model_says_why_it_does_not_chat():
    if not IS_BASE:
        return
    try:
        chat()
    except openai.BadRequestError as error:
        assert "chat template" in error.message and "/v1/completions" in error.message
        return
    raise AssertionError("it chatted")


TEXTS = ["The cat sits on the mat.", "A cat is sitting on the mat.", "Interest rates rose by a quarter of a point."]


def nearness(one, other):
    return sum(a * b for a, b in zip(one, other))


@check_text
def texts_are_embedded():
    packed = CLIENT.embeddings.create(model=MODEL, input=TEXTS)  # this client asks for Base64
    plain = CLIENT.embeddings.create(model=MODEL, input=TEXTS, encoding_format="float")
    one, other = ([it.embedding for it in sorted(reply.data, key=lambda it: it.index)] for reply in (packed, plain))
    assert all(nearness(a, b) > 0.999 for a, b in zip(one, other)) and abs(nearness(one[0], one[0]) - 1) < 1e-3
    assert nearness(one[0], one[1]) > nearness(one[0], one[2]), one
    assert packed.usage.prompt_tokens == packed.usage.total_tokens > 10
    short = CLIENT.embeddings.create(model=MODEL, input=TEXTS[0], dimensions=8).data[0].embedding
    assert len(short) == 8 and abs(nearness(short, short) - 1) < 1e-3
    lite = litellm.embedding(model=f"openai/{MODEL}", api_base=f"{URL}/v1", api_key=KEY, input=TEXTS)
    assert nearness(lite.data[2]["embedding"], one[2]) > 0.999


@check
def errors_are_openais():
    assert refused(openai.NotFoundError, model="nobody").code == "model_not_found"
    long = refused(openai.BadRequestError, messages=[{"role": "user", "content": "word " * CONTEXT}])
    assert long.code == "context_length_exceeded" and f" {CONTEXT} tokens," in long.message, long
    assert refused(openai.BadRequestError, temperature=9).param == "temperature"
    assert refused(openai.BadRequestError, messages=[]).param == "messages"
    assert refused(openai.BadRequestError, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "cat"}}})
    try:
        openai.OpenAI(base_url=f"{URL}/v1", api_key="wrong", max_retries=0).models.list()
    except openai.AuthenticationError:
        return
    raise AssertionError("a wrong key was let in")


@check
def a_stream_that_is_broken_off_frees_its_slot():
    for _ in range(6):
        with chat(stream=True, max_tokens=400, messages=[{"role": "user", "content": "Tell me a long story."}]) as stream:
            next(iter(stream))
    assert "Paris" in chat().choices[0].message.content


@check_foreign
def thirty_two_are_answered_at_once():
    async def all_at_once():
        async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY, timeout=300, max_retries=0) as client:
            ask = lambda n: client.chat.completions.create(
                model=MODEL, max_tokens=12, temperature=0, messages=[{"role": "user", "content": f"Repeat the number {n}."}]
            )
            return await asyncio.gather(*(ask(n) for n in range(32)))

    replies = asyncio.run(all_at_once())
    assert len(replies) == 32 and all(reply.choices[0].message.content for reply in replies)
    assert len({reply.id for reply in replies}) == 32


def lite(**more):
    return litellm.completion(
        **{"model": f"openai/{MODEL}", "api_base": f"{URL}/v1", "api_key": KEY, "messages": HELLO, "max_tokens": 24, "temperature": 0, **more}
    )


@check
def litellm_chats_and_streams():
    whole = lite()
    assert "Paris" in whole.choices[0].message.content
    assert "".join(chunk.choices[0].delta.content or "" for chunk in lite(stream=True)) == whole.choices[0].message.content


@check
def litellm_calls_tools_and_reads_objects():
    call = lite(tools=[WEATHER], tool_choice="required", max_tokens=100).choices[0].message.tool_calls[0]
    assert call.function.name == "weather"
    reply = lite(response_format=City, max_tokens=200)
    assert City.model_validate_json(reply.choices[0].message.content)


@check
def litellm_knows_the_errors():
    try:
        lite(messages=[{"role": "user", "content": "word " * CONTEXT}])
    except litellm.ContextWindowExceededError:
        return
    raise AssertionError("it was not refused")


# Open WebUI (its `routers/openai.py` and `utils/middleware.py`) asks with aiohttp, a session for each question; it may tell
# who its user is, shows an error's text from `error`, and reads a stream line by line.
WEBUI_HEADERS = {
    "Authorization": f"Bearer {KEY}",
    "Content-Type": "application/json",
    "X-OpenWebUI-User-Name": "Ada",
    "X-OpenWebUI-User-Id": "5f0c",
    "X-OpenWebUI-User-Email": "ada@example.org",
    "X-OpenWebUI-User-Role": "admin",
    "X-OpenWebUI-Chat-Id": "c7",
}


def webui(method, path, payload=None, headers=WEBUI_HEADERS):
    async def ask():
        async with aiohttp.ClientSession(trust_env=True, timeout=aiohttp.ClientTimeout(total=300)) as session:
            data = None if payload is None else json.dumps(payload)
            async with session.request(method, f"{URL}/v1{path}", data=data, headers=headers) as response:
                if "text/event-stream" not in response.headers.get("Content-Type", ""):
                    return response.status, await response.json()
                lines = [line.decode().strip() async for line in response.content]
                return response.status, [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]

    return asyncio.run(ask())


@check_any
def open_webui_finds_its_models():
    status, reply = webui("GET", "/models")
    assert status == 200 and any(model["id"] == MODEL for model in reply["data"]), reply
    status, reply = webui("GET", "/models", headers={})
    assert status == 401 and reply["error"]["message"], reply


@check_foreign
def open_webui_chats_and_names_the_chat():
    chatting = {"model": MODEL, "messages": HELLO, "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 24, "temperature": 0}
    status, events = webui("POST", "/chat/completions", chatting)
    assert status == 200 and events[-1] == "[DONE]", events
    chunks = [json.loads(event) for event in events[:-1]]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", []))
    usage = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    assert text.strip() and usage[-1]["completion_tokens"] > 0
    # the title, once the chat has begun: whole, with the newer name of the limit
    title = [{"role": "user", "content": f"Generate a title of 3 to 5 words for this chat.\nUSER: {HELLO[0]['content']}\nASSISTANT: {text}"}]
    status, reply = webui("POST", "/chat/completions", {"model": MODEL, "messages": title, "stream": False, "max_completion_tokens": 16})
    assert status == 200 and isinstance(reply["choices"][0]["message"]["content"], str), reply
    assert 0 < reply["usage"]["completion_tokens"] <= 16


@check_text
def open_webui_shows_errors_and_searches_documents():
    status, reply = webui("POST", "/chat/completions", {"model": "nobody", "messages": HELLO, "stream": True})
    assert status == 404 and "nobody" in reply["error"]["message"], reply
    status, reply = webui("POST", "/embeddings", {"model": MODEL, "input": TEXTS})
    assert status == 200 and len(reply["data"]) == len(TEXTS) and len(reply["data"][0]["embedding"]) > 8


def main():
    failed = 0
    for function in CHECKS:
        name = function.__name__.replace("_", " ")
        try:
            function()
            print(f"ok      {name}", flush=True)
        except Exception:  # every check is tried
            failed += 1
            print(f"FAILED  {name}\n{traceback.format_exc()}", flush=True)
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    sys.exit(failed > 0)


main()
