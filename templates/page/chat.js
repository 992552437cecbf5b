// The chat: an answer as it comes, who gives it, and the fallback where one happens.
const talk = { messages: [], running: null };
// A conversation is sent whole each time, and a door takes 8 MiB.
const LONGEST = 1 << 20;

const isAtEnd = log => log.scrollHeight - log.scrollTop - log.clientHeight < 60;

function clearChat() {
  talk.running?.abort();
  talk.messages = [];
  $("log").replaceChildren(h("p", { class: "empty" }, "Ask something. The answer says who gave it, and if somebody else had to go on with it, where and why."));
  $("prompt").focus();
}

// The parts of a stream of events: data, and comments, in which a door says who goes on.
async function* eventsOf(reply) {
  const reader = reply.body.getReader(), decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    rest += decoder.decode(value, { stream: !done });
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith(":")) yield { comment: line.slice(1).trim() };
      else if (line.startsWith("data:")) yield { data: line.slice(5).trim() };
    }
    if (done) return;
    if (rest.length > LONGEST) throw new Error("an event of the answer is too long");
  }
}

class Answer {
  constructor(log, asked) {
    this.asked = asked;
    this.log = log;
    this.text = "";
    this.began = performance.now();
    this.tokens = 0;
    this.box = h("div", { class: "theirs" });
    this.by = h("p", { class: "by" });
    this.clock = h("span", {}, "");
    this.waiting = h("p", { class: "by" }, h("span", { class: "waiting" }, "waiting for the first word "), this.clock);
    this.box.append(this.waiting);
    log.append(this.box);
    this.timer = setInterval(() => { this.clock.textContent = ` ${span((performance.now() - this.began) / 1000)}`; }, 200);
    this.part = null;
  }
  scroll(change) {
    const follow = isAtEnd(this.log);
    change();
    if (follow) this.log.scrollTop = this.log.scrollHeight;
  }
  began_by(headers) {
    const header = name => text(headers.get(`x-bramble-${name}`) || "", 600);
    clearInterval(this.timer);
    this.waiting.remove();
    const why = header("fallback-reason");
    this.host = header("host");
    if (why) this.turn(`${named(why, this.asked)}. ${this.host} answers in its place.`);
    this.who = [header("model"), header("quant")].filter(Boolean).join(" ");
    this.generation = header("generation");
    this.open(false);
  }
  open(isOther) {
    this.part?.classList.remove("waiting");
    this.part = h("p", { class: `part waiting ${isOther ? "other" : ""}` }, "");
    this.node = document.createTextNode("");
    this.part.append(this.node);
    this.box.append(this.part);
  }
  turn(words, isBad) { this.scroll(() => this.box.append(h("p", { class: `turn ${isBad ? "bad" : ""}` }, words))); }
  say(words, isThought) {
    if (this.text.length + words.length > LONGEST) throw new Error("the answer is too long for this page");
    this.scroll(() => {
      if (isThought) {
        if (!this.thought) { this.thought = h("p", { class: "thought" }, ""); this.box.insertBefore(this.thought, this.part); }
        this.thought.append(words);
        return;
      }
      if (!this.first) this.first = performance.now();
      this.tokens++;
      this.text += words;
      this.node.appendData(words);
    });
  }
  continued(words) {
    const [, to, why] = /^continued on (\S+) \((.*)\)$/.exec(words) || [null, null, words];
    this.turn(to ? `${named(why, this.asked)}. ${to} goes on from here.` : words);
    this.after = to;
    this.open(true);
  }
  end(usage, timings) {
    clearInterval(this.timer);
    this.waiting.remove();
    this.part?.classList.remove("waiting");
    const tokens = usage?.completion_tokens ?? this.tokens, seconds = this.first ? (performance.now() - this.first) / 1000 : 0;
    const fast = timings?.predicted_per_second ?? (seconds > 0.05 && tokens > 1 ? (tokens - 1) / seconds : null);
    if (!this.host) return;
    this.by.append(h("span", {}, h("strong", {}, this.host), this.after ? [", then ", h("strong", {}, this.after)] : ""), this.who ? h("span", {}, this.who) : "", this.generation ? h("span", {}, `generation ${this.generation}`) : "", isNumber(fast) ? h("span", {}, `${speed(fast)} tok/s`) : "", h("span", {}, `${span((performance.now() - this.began) / 1000)} in all`));
    this.scroll(() => this.box.append(this.by));
  }
}

async function sendChat(question) {
  const log = $("log"), model = $("model").value, at = $("at").value;
  if (!talk.messages.length) log.replaceChildren();
  talk.messages.push({ role: "user", content: question });
  log.append(h("p", { class: "mine" }, question));
  const answer = new Answer(log, at || text(page.status?.at, 80) || "its own engine"), running = talk.running = new AbortController();
  log.scrollTop = log.scrollHeight;
  $("send").textContent = "Stop";
  $("said").textContent = "asked";
  let usage, timings, isDone = false;
  try {
    const body = { model, messages: talk.messages, stream: true, stream_options: { include_usage: true } };
    const reply = await post("/v1/chat/completions", body, { signal: running.signal, headers: at ? { "x-bramble-at": at } : {} });
    answer.began_by(reply.headers);
    for await (const { comment, data } of eventsOf(reply)) {
      if (comment) answer.continued(comment);
      else if (data === "[DONE]") { isDone = true; break; }
      else if (data) {
        const event = JSON.parse(data), delta = event.choices?.[0]?.delta;
        if (event.error) throw new Error(text(event.error.message, 600) || "it broke off");
        if (delta?.reasoning_content) answer.say(String(delta.reasoning_content), true);
        if (delta?.content) answer.say(String(delta.content));
        usage = event.usage ?? usage;
        timings = event.timings ?? timings;
      }
    }
    if (!isDone) throw new Error("the answer ended before it was whole");
  } catch (error) {
    if (error.name === "AbortError") answer.turn("Stopped.");
    else answer.turn(error instanceof TypeError ? "The connection broke." : named(error.message, answer.asked), true);
    if (error.status === 401) showSignIn("This session has ended.");
  }
  answer.end(usage, timings);
  if (talk.running !== running) return;
  // what broke off before a word is not part of the conversation
  if (answer.text) talk.messages.push({ role: "assistant", content: answer.text });
  else talk.messages.pop();
  talk.running = null;
  $("send").textContent = "Send";
  $("said").textContent = isDone ? `answered by ${answer.host}${answer.after ? `, then ${answer.after}` : ""}` : "no whole answer";
}

function choose(select, names) {
  const now = [...select.options].map(option => option.value).join("\n");
  if (now === names.join("\n")) return;
  const chosen = select.value;
  select.replaceChildren(...names.map(name => h("option", { value: name }, name)));
  if (names.includes(chosen)) select.value = chosen;
}

// Offers whom and what can be asked, by the fleet's status or by a door's list of models.
function offer(status, models) {
  const hosts = status && status.at === null ? list(status.hosts) : [];
  const open = hosts.filter(host => host.state === "open" && list(host.upstreams).length).map(host => text(host.host, 80));
  $("at-label").hidden = !open.length;
  choose($("at"), open);
  const asked = hosts.find(host => host.host === $("at").value) || list(status?.hosts)[0];
  choose($("model"), models || [...new Set(list(asked?.upstreams).map(upstream => text(upstream.model, 80)))]);
}

function startChat() {
  clearChat();
  $("anew").addEventListener("click", clearChat);
  $("at").addEventListener("change", () => offer(page.status, page.models));
  $("prompt").addEventListener("keydown", event => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && matchMedia("(pointer: fine)").matches) {
      event.preventDefault();
      if (!talk.running) $("ask").requestSubmit();
    }
  });
  $("ask").addEventListener("submit", event => {
    event.preventDefault();
    if (talk.running) { talk.running.abort(); return; }
    const question = $("prompt").value.trim();
    if (!question || !$("model").value) return;
    $("prompt").value = "";
    sendChat(question);
  });
}
