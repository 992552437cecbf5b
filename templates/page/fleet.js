// The fleet: each host, who answered the last requests and why, and an apply in progress.
const tag = (kind, ...words) => h("span", { class: `tag ${kind}` }, ...words);
const dot = kind => h("span", { class: `dot ${kind}`, "aria-hidden": "true" });
const bar = (part, kind = "") => h("div", { class: "bar", "aria-hidden": "true" }, h("span", { class: `used ${kind}`, width: `${Math.max(0, Math.min(100, 100 * part)).toFixed(1)}%` }));
const vital = (name, what, is, of, more) => h("div", { class: `vital ${name}` }, h("span", { class: "what" }, what), h("span", { class: "is" }, is), of ? h("span", { class: "of" }, ` ${of}`) : null, more || null);

const STATES = { ready: ["good", "ready"], loading: ["warn", "loading"], draining: ["warn", "draining"], failed: ["bad", "failed"] };

function stateOf(engine) {
  if (engine.error) return tag("bad", "not there");
  const [kind, word] = STATES[engine.status] || ["", "unknown"];
  if (word === "loading" && isNumber(engine.loaded)) return tag(kind, `loading ${Math.floor(100 * engine.loaded)} %`);
  return tag(kind, word);
}

// What the engine's last answers here came at.
function lately(host, model) {
  const speeds = list(host.requests).filter(past => past.model === model && past.upstream === "local" && !past.continued && isNumber(past.tokens_per_second)).slice(0, 5).map(past => past.tokens_per_second);
  return speeds.length ? speeds.reduce((sum, one) => sum + one, 0) / speeds.length : null;
}

function engines(host) {
  const rows = list(host.engines).map(engine => {
    const queued = engine.queued || 0;
    const cell = (what, value, title) => h("td", { class: "n", "data-what": what, title }, value ?? "–");
    return h("tr", {},
      h("td", {}, text(engine.model, 80), h("span", { class: "quant" }, text(engine.quant, 40))),
      h("td", { title: text(engine.error) || null }, stateOf(engine)),
      cell("predicted", speed(engine.predicted)), cell("measured", speed(engine.measured)), cell("lately", speed(lately(host, engine.model))),
      h("td", { class: "n", "data-what": "at work" }, isNumber(engine.running) ? `${engine.running} of ${engine.slots}` : "–", queued ? h("span", { class: "warn-ink" }, `, ${queued} waiting`) : null));
  });
  if (!rows.length) return h("p", { class: "note" }, "No model of its own.");
  const head = (words, title) => h("th", { class: "n", scope: "col", title }, words);
  return h("div", { class: "wide" }, h("table", { class: "engines" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Model"), h("th", { scope: "col" }, "State"), head("Predicted", "tokens per second, by the plan"), head("Measured", "tokens per second, as it was activated"), head("Lately", "tokens per second, its last answers"), head("At work"))),
    h("tbody", {}, rows)));
}

function hop(upstream, host) {
  const breaker = upstream.breaker || {}, machine = upstream.machine || {};
  const wait = isNumber(breaker.wait_seconds) ? `${Math.ceil(breaker.wait_seconds)} s` : "";
  const [kind, word] = breaker.state === "open" ? (wait ? ["bad", `passed over for ${wait}`] : ["warn", "tried with the next request"]) : breaker.state === "half-open" ? ["warn", "being tried"] : machine.state === "asleep" ? ["warn", "asleep"] : machine.state === "waking" ? ["warn", "being woken"] : ["good", ""];
  const name = upstream.upstream === "local" ? text(host.host, 80) : text(upstream.upstream, 80);
  return h("span", { class: `hop ${kind === "good" ? "" : kind}`, title: `breaker ${text(breaker.state, 20)}` }, dot(kind), h("span", {}, name), " ", h("span", { class: word ? "" : "away" }, word || "breaker closed"));
}

function routes(host) {
  const byModel = new Map();
  for (const upstream of list(host.upstreams)) {
    const model = text(upstream.model, 80);
    byModel.set(model, [...(byModel.get(model) || []), upstream]);
  }
  return [...byModel].map(([model, order]) => h("ul", { class: "chain", "aria-label": `who answers for ${model}, in order` },
    h("li", { class: "model" }, model),
    order.map((upstream, nth) => h("li", {}, nth ? h("span", { class: "arrow", "aria-hidden": "true" }, "→ ") : null, hop(upstream, host)))));
}

function heat(host) {
  const throttled = host.throttled, hot = isNumber(host.celsius) && host.celsius >= 80;
  const words = [];
  if (throttled) {
    if (throttled.under_voltage_now) words.push(tag("bad", "too little voltage"));
    else if (throttled.under_voltage) words.push(tag("warn", "had too little voltage"));
    if (throttled.slowed_now) words.push(tag("bad", "throttled"));
    else if (throttled.slowed) words.push(tag("warn", "was throttled"));
  }
  if (!isNumber(host.celsius) && !throttled) return null;
  return vital("heat", "Processor", isNumber(host.celsius) ? h("span", { class: hot ? "bad-ink" : "" }, `${Math.round(host.celsius)} °C`) : "", null,
    h("div", {}, words.length ? words.flatMap(word => [word, " "]) : throttled ? h("span", { class: "of" }, "not throttled") : null));
}

function memory(host) {
  const { total, available } = host.memory || {};
  if (!isNumber(total) || !isNumber(available) || total <= 0) return null;
  const part = 1 - available / total, kind = part > 0.95 ? "bad" : part > 0.88 ? "warn" : "";
  return vital("memory", "Memory in use", bytes(total - available), `of ${bytes(total)}`, bar(part, kind));
}

function work(host) {
  const running = isNumber(host.in_flight) ? host.in_flight : 0, held = host.held || 0;
  return vital("asked", "Requests", `${running || "none"} under way${held ? `, ${held} waiting` : ""}`);
}

function hostCard(host) {
  const name = text(host.host, 80), isOpen = host.state === "open";
  const kind = !isOpen ? "bad" : host.cordoned || list(host.engines).some(engine => engine.status !== "ready") ? "warn" : "good";
  const words = { good: "answers", warn: "answers in part", bad: "does not answer" };
  const more = [text(host.machine, 80), isNumber(host.generation) ? `generation ${host.generation}` : ""].filter(Boolean).join(" · ");
  return h("article", { class: `host ${isOpen ? "" : "down"}`, id: `host-${name}`, "aria-label": `host ${name}` },
    h("div", { class: "head" }, h("h3", {}, dot(host.state === "unknown" ? "" : kind), name, h("span", { class: "away" }, words[kind])), host.cordoned ? tag("warn", "cordoned: takes no new work") : null, host.state === "unknown" ? tag("", "not looked at yet") : isOpen ? null : tag("bad", "does not answer"), h("span", { class: "more" }, more)),
    host.why ? h("p", { class: "why" }, text(host.why, 600)) : null,
    !isOpen ? null : [
      h("div", { class: "vitals" }, memory(host), heat(host), work(host)),
      h("h4", {}, "Models, with speeds in tok/s"), engines(host),
      list(host.upstreams).length ? [h("h4", {}, "Who answers, in order"), routes(host)] : null]);
}

function requestRow({ host, past }) {
  const failed = past.status >= 400;
  const who = past.upstream === "-" ? "nobody" : past.upstream === "local" ? host : past.upstream;
  const path = [text(who, 80), ...text(past.continued).split(", ").filter(Boolean)].join(", then ");
  const left = past.status === 499;
  return h("div", { class: `request ${failed && !left ? "failed" : ""}`, role: "listitem" },
    h("span", { class: "ago" }, ago(past.ago_seconds)),
    h("span", {}, h("strong", {}, text(past.model, 80)), " by ", h("strong", { class: past.upstream === "-" ? "bad-ink" : "" }, path), who === host ? null : h("span", { class: "key" }, ` for ${text(host, 80)}`), " ", left ? tag("", "client left") : failed ? tag("bad", String(past.status)) : null),
    h("span", { class: "fast" }, isNumber(past.tokens_per_second) ? `${speed(past.tokens_per_second)} tok/s` : span(past.seconds)),
    past.why ? h("span", { class: "because" }, named(text(past.why), host)) : null);
}

function requests(hosts, isFleet) {
  // what one door passed on, the other answered for it: it is told by the one that was asked
  const all = hosts.flatMap(host => list(host.requests).filter(past => !isFleet || !past.passed_on).map(past => ({ host: text(host.host, 80), past })));
  all.sort((a, b) => a.past.ago_seconds - b.past.ago_seconds);
  return h("div", { class: "requests" }, h("h3", {}, "The last requests"),
    all.length ? h("div", { class: "card list", role: "list" }, all.slice(0, 20).map(requestRow)) : h("p", { class: "note" }, "None yet."),
    all.length ? h("p", { class: "note" }, "Who answered, and why it was not the first choice. What was asked and answered is kept nowhere.") : null);
}

const APPLY = { running: ["", "in progress"], done: ["done", "done"], failed: ["broke", "not all of it worked"], broken: ["broke", "broke off"] };

function applyCard(apply) {
  const [kind, word] = APPLY[apply.state] || APPLY.running;
  const works = list(apply.works), running = works.filter(one => one.state === "running"), failed = works.filter(one => one.state === "failed");
  const done = works.filter(one => one.state === "done");
  const row = one => {
    const label = `${one.host ? `${text(one.host, 80)}: ` : ""}${text(one.what)}`, isCounted = isNumber(one.total) && one.total > 0;
    const part = isCounted ? (one.done || 0) / one.total : null;
    return h("div", { class: "work" }, h("span", {}, label), h("span", { class: "amount" }, one.state === "failed" ? tag("bad", "failed") : isCounted ? `${bytes(one.done || 0)} of ${bytes(one.total)}` : span(one.seconds)),
      one.state === "failed" ? h("span", { class: "error" }, text(one.outcome, 600)) :
      h("div", { class: "bar", role: "progressbar", "aria-label": label, "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": part === null ? null : String(Math.floor(100 * part)) }, h("span", part === null ? { class: "sway" } : { class: "used", width: `${(100 * Math.min(1, part)).toFixed(1)}%` })));
  };
  return h("section", { class: `card apply ${kind}`, id: "apply", "aria-label": "apply" },
    h("div", { class: "lead" }, h("strong", {}, `bramble ${text(apply.verb, 40)}`), tag(kind === "done" ? "good" : kind === "broke" ? "bad" : "", word), h("span", {}, `by ${text(apply.by, 120)}, begun ${ago(apply.began_ago_seconds)}`)),
    apply.state === "broken" ? h("p", { class: "why" }, "The command has ended in its middle. Hosts are whole all the same: run it again.") : null,
    [...failed, ...(apply.state === "running" ? running : [])].map(row),
    list(apply.notes).slice(-3).map(note => h("p", { class: "note" }, `${note.host ? `${text(note.host, 80)}: ` : ""}${text(note.text)}`)),
    done.length ? h("details", { class: "finished", id: "finished" }, h("summary", {}, `${count(done.length, "step")} done`), h("ul", {}, done.map(one => h("li", {}, `${one.host ? `${text(one.host, 80)}: ` : ""}${text(one.what)}${one.outcome ? `: ${text(one.outcome)}` : ""} (${span(one.seconds)})`)))) : null);
}

function drawFleet(status) {
  const hosts = list(status.hosts), open = hosts.filter(host => host.state === "open").length;
  const isFleet = status.at === null;
  const next = h("div", { id: "fleet-body" },
    status.apply ? applyCard(status.apply) : null,
    h("p", { class: "sum" }, isFleet ? [h("span", {}, h("strong", {}, count(hosts.length, "host"))), h("span", { class: "good-ink" }, `${open} answer${open === 1 ? "s" : ""}`), hosts.length > open ? h("span", { class: "bad-ink" }, `${hosts.length - open} ${hosts.length - open === 1 ? "does" : "do"} not`) : null] : h("span", {}, "The door of ", h("strong", {}, text(status.at, 80)), ". For the whole fleet: ", h("code", {}, "bramble ui"))),
    hosts.map(hostCard), requests(hosts, isFleet));
  morph($("fleet-body"), next);
  const title = text(status.fleet, 80) + (isFleet ? "" : ` · ${text(status.at, 80)}`);
  if ($("title").textContent !== title) $("title").textContent = title;
  document.title = `${title} · Bramble`;
}
