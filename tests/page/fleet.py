"""A fleet on this machine for the page: real doors and a real `bramble ui`, behind which engines are played.

Two hosts that answer, one that does not, and `attic`, whose door is played: a Pi that is hot and loads, which this machine is
not. Doors speak TLS with certificates of the fleet, as they do unless a manifest says otherwise; with `tls=False`, plain HTTP.

The engines are doubles behind the sockets where the doors expect real ones: they
say a known text word by word, tell how far they are and go on with what another began, as engines of ours do, and the first
can be told to die in the middle of a word.
"""

import asyncio
import hashlib
import json
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import threading
import time

STORY = (
    "A bramble is any rough, tangled, prickly shrub, usually of the genus Rubus, which grows blackberries, raspberries or "
    "dewberries. In this fleet it is many small hosts that hold on to each other: where one of them lets go in the middle of "
    "a word, the next one takes the word up, and whoever listens hears one answer."
)
STRANGE = "</script><img src=x onerror=alert(1)>"


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def browser():
    """Where Chromium is, or on machines that were made for CI, Chrome."""
    found = [path for path in map(shutil.which, ["chromium", "google-chrome"]) if path]
    assert found, "there is no Chromium"
    return found[0]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Engine:
    """Plays the engine of one host behind its socket."""

    def __init__(self, path, model, quant, pause=0.02, story=STORY):
        self.path, self.model, self.quant, self.pause, self.story = path, model, quant, pause, story
        self.dies_after = None
        self.is_gone = False
        self.server = None

    async def start(self):
        self.server = await asyncio.start_unix_server(self.serve, self.path)

    async def serve(self, reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            if self.is_gone:
                return
            length = next((int(line.split(":")[1]) for line in head.lower().split("\r\n") if line.startswith("content-length:")), 0)
            body = await reader.readexactly(length)
            if head.startswith("GET /health"):
                report = {
                    "status": "ready", "model": self.model, "quant": self.quant, "generation": 3, "cpu": "haswell", "slots": 2, "context": 4096,
                    "running": 0, "queued": 0, "wait_seconds": 0, "loaded": 1.0, "memory_available": 5 << 30, "throttled": None,
                }
                await self.whole(writer, json.dumps(report))
            elif head.startswith("GET /metrics"):
                await self.whole(writer, "")
            else:
                await self.stream(writer, head.lower(), json.loads(body))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def whole(self, writer, text):
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode())
        await writer.drain()

    async def stream(self, writer, head, asked):
        begun = asked.get("bramble_begun") or {"text": "", "tokens": 0}
        goes_on = "x-bramble-goes-on: 1\r\n" if "bramble_begun" in asked else ""
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{goes_on}\r\n".encode())
        rest = self.story.removeprefix(begun["text"])
        words = [word + " " for word in rest.split(" ")] if rest else []
        if words:
            words[-1] = words[-1][:-1]
        tokens = begun["tokens"]

        def event(delta, finish=None, text=""):
            chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": self.model, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
            if "x-bramble-with-progress" in head:
                chunk["bramble_progress"] = {"text": text, "tokens": tokens, "prompt_tokens": 9}
            writer.write(f"data: {json.dumps(chunk)}\n\n".encode())

        event({"role": "assistant", "content": ""})
        for nth, word in enumerate(words):
            if self.dies_after is not None and nth == self.dies_after:
                self.dies_after, self.is_gone = None, True
                writer.transport.abort()
                return
            tokens += 1
            event({"content": word}, text=word)
            await writer.drain()
            await asyncio.sleep(self.pause)
        event({}, "stop")
        usage = {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": tokens + 9}
        writer.write(f"data: {json.dumps({'id': 'chatcmpl-1', 'object': 'chat.completion.chunk', 'created': 1, 'model': self.model, 'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n".encode())
        await writer.drain()


class Host:
    """A host: its folder, its door and its engines."""

    def __init__(self, root, name, program, fleet, secrets, engines, order, upstreams, measured):
        self.root, self.name, self.port = root / name, name, free_port()
        self.engines = {}
        generation = self.root / "generations" / "3"
        generation.mkdir(parents=True)
        (self.root / "run").mkdir()
        pace = lambda answer: {"prompt": 40.0, "answer": answer, "load_seconds": 4.0}
        specs = []
        for model, quant, answer, story in engines:
            specs.append({
                "model": model, "weights": {"recipe": sha256(model), "digest": sha256(quant), "bytes": 1 << 30, "quant": quant, "architecture": "llama"},
                "context": 4096, "slots": 2, "threads": 4, "micro_batch": 64, "load": "mmap", "repack": False, "kv": "f16", "need": 1 << 30, "pace": pace(answer),
            })
            self.engines[model] = Engine(str(self.root / "run" / f"engine-{model}.sock"), model, quant, story=story)
        self.definition = {
            "format": 1, "fleet": fleet, "host": name, "program": {"digest": sha256("program"), "version": "0.1.0"}, "engines": specs,
            "door": {
                "port": self.port, "tls": "fleet" if secrets.get("identity") else "off", "upstreams": upstreams,
                "routes": [{"model": model, "order": hops, "overflow_queue": None, "first_token_seconds": 20.0} for model, hops in order],
            },
        }
        (generation / "definition.json").write_text(json.dumps(self.definition))
        (generation / "secrets.json").write_text(json.dumps(secrets))
        entry = {"generation": 3, "plan": "x", "at": "2026-11-28T00:00:00Z", "by": "test", "predicted": [], "measured": [{"model": model, "tokens_per_second": speed, "first_token_ms": 90.0, "load_seconds": 2.0} for model, speed in measured]}
        (self.root / "receipt.json").write_text(json.dumps({"entries": [entry]}))
        (self.root / "current").symlink_to(generation)
        self.program, self.process = program, None

    def open(self):
        log = open(self.root / "door.log", "w")
        self.process = subprocess.Popen([self.program, "route", "--root", str(self.root)], stderr=log, stdin=subprocess.DEVNULL)
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port)).close()
            except ConnectionRefusedError:
                assert self.process.poll() is None, (self.root / "door.log").read_text()
                time.sleep(0.02)


# What the door of a Raspberry Pi would tell that is hot, has too little voltage and loads a model.
PI = {
    "format": 1, "fleet": "home", "at": "attic", "apply": None,
    "hosts": [{
        "host": "attic", "state": "open", "why": None, "program": "0.1.0", "generation": 7, "cordoned": True, "memory": {"total": 8 << 30, "available": 600 << 20},
        "celsius": 82.4, "throttled": {"bits": 0x50005, "under_voltage_now": True, "under_voltage": True, "slowed_now": True, "slowed": True},
        "engines": [{
            "model": "chat", "quant": "Q4_K_M", "context": 4096, "need": 5 << 30, "predicted": 2.2, "measured": 2.1, "status": "loading", "error": None,
            "loaded": 0.62, "slots": 1, "running": 0, "queued": 2, "wait_seconds": 40, "cpu": "armv8.2", "gpu": None,
        }],
        "upstreams": [{"model": "chat", "upstream": "local", "kind": "local", "breaker": {"state": "half-open", "wait_seconds": 2.0}}, {"model": "chat", "upstream": "desk", "kind": "host", "breaker": {"state": "closed", "wait_seconds": None}, "machine": {"state": "asleep", "since_seconds": 20}}],
        "in_flight": 1, "held": 1, "requests": [],
    }],
}


class Fleet:
    """All of it, and `bramble ui` before it."""

    def __init__(self, root, programs, tls=True):
        self.scheme = "https" if tls else "http"
        self.root, self.programs = pathlib.Path(root), programs
        brambled = str(programs / "brambled")
        hop = lambda upstream, model, quant=None, desktop=False: {"upstream": upstream, "model": model, "quant": quant, "pace": {"prompt": 40.0, "answer": 9.0, "load_seconds": 4.0}, "is_desktop": desktop}
        local = {"name": "local", "kind": {"kind": "local"}}
        other = lambda host: {"name": host.name, "kind": {"kind": "host", "url": self.at(host)}}
        away = {"name": "gaming", "kind": {"kind": "foreign", "url": "http://127.0.0.1:9/v1", "key": None}}
        environment = {"HOME": str(self.root), "PATH": os.environ["PATH"]}
        state = self.root / "state" / "bramble"
        made = subprocess.run([programs / "examples" / "fleet_keys", state, "home", "kitchen", "desk", "shed", "attic"], env=environment, check=True, stdout=subprocess.PIPE)
        made = json.loads(made.stdout)
        self.keys, secrets = made["keys"], made["secrets"]
        if not tls:
            peer = {"id": "peer", "sha256": sha256("peer"), "scopes": ["peer"]}
            secrets = {host: {"keys": [*given["keys"], peer], "peer_key": "peer", "foreign_keys": {}} for host, given in secrets.items()}
        self.desk = Host(self.root, "desk", brambled, "home", secrets["desk"], [("chat", "Q8_0", 41.0, STORY), ("writer", "Q5_K_M", 12.0, STRANGE)], [("chat", [hop("local", "chat")]), ("writer", [hop("local", "writer")])], [local], [("chat", 43.8), ("writer", 11.4)])
        self.kitchen = Host(self.root, "kitchen", brambled, "home", secrets["kitchen"], [("chat", "Q4_K_M", 8.2, STORY)], [("chat", [hop("local", "chat"), hop("desk", "chat", "Q8_0", True), hop("gaming", "mistral")]), ("writer", [hop("desk", "writer", "Q5_K_M", True)])], [other(self.desk), away, local], [("chat", 7.9)])
        self.hosts = [self.desk, self.kitchen]
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        for host in self.hosts:
            for engine in host.engines.values():
                self.run(engine.start())
            host.open()
        # every door of a fleet has one port: at addresses of their own, ways to those that are here
        self.port = free_port()
        self.addresses = {"kitchen": "127.0.0.11", "desk": "127.0.0.12", "shed": "127.0.0.13", "attic": "127.0.0.14"}
        for host in self.hosts:
            self.run(asyncio.start_server(lambda reader, writer, port=host.port: self.relay(reader, writer, port), self.addresses[host.name], self.port))
        self.played(secrets["attic"].get("identity"))
        self.operator(state, tls)

    def at(self, host):
        return f"{self.scheme}://127.0.0.1:{host.port}"

    def played(self, identity):
        """Opens the door of the attic."""
        context = None
        if identity:
            (self.root / "attic.pem").write_text(identity["certificate"] + identity["key"])
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.root / "attic.pem")

        async def answer(reader, writer):
            try:
                await reader.readuntil(b"\r\n\r\n")
                text = json.dumps(PI)
                writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(text)}\r\nconnection: close\r\n\r\n{text}".encode())
                await writer.drain()
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        self.run(asyncio.start_server(answer, self.addresses["attic"], self.port, ssl=context))

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(self.wrap(coroutine), self.loop).result()

    async def wrap(self, coroutine):
        return await coroutine

    async def relay(self, reader, writer, port):
        try:
            there, back = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionError:
            return writer.close()

        async def pump(source, sink):
            try:
                while data := await source.read(1 << 16):
                    sink.write(data)
                    await sink.drain()
            except ConnectionError:
                pass
            finally:
                sink.close()

        await asyncio.gather(pump(reader, back), pump(there, writer))

    def operator(self, state, tls):
        """A manifest, and `bramble ui`."""
        hosts = "\n".join(f"  {name}: {{ address: {address} }}" for name, address in self.addresses.items())
        (self.root / "fleet.yaml").write_text(f"bramble: 1\nfleet: home\nserve: {{ port: {self.port}, tls: {'fleet' if tls else 'off'} }}\nmodels:\n  chat: {{ source: \"file:./none.gguf\" }}\nhosts:\n{hosts}\ndeploy:\n  - {{ model: chat, on: {{ role: pi }} }}\n")
        self.folder = state / "fleets" / "home"
        environment = {"HOME": str(self.root), "XDG_STATE_HOME": str(self.root / "state"), "PATH": os.environ["PATH"]}
        self.ui = subprocess.Popen([self.programs / "bramble", "ui", "--port", "0", "--json"], cwd=self.root, env=environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        self.link = json.loads(self.ui.stdout.readline())["url"]

    def next_link(self):
        self.link = json.loads(self.ui.stdout.readline())["url"]
        return self.link

    def end(self):
        for process in [self.ui, *(host.process for host in self.hosts)]:
            process.terminate()
        for process in [self.ui, *(host.process for host in self.hosts)]:
            process.wait(10)

        async def leave():
            own = asyncio.current_task()
            rest = [task for task in asyncio.all_tasks() if task is not own]
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(leave(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
