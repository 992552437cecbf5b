// What the parts of the page share. Whatever a host or a model says becomes text, never markup.
const $ = id => document.getElementById(id);

// h("p", { class: "why" }, "text", child): an element. Texts are texts.
function h(tag, props, ...children) {
  const el = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "width") el.style.width = value;
    else el.setAttribute(name, value === true ? "" : value);
  }
  el.append(...children.flat(9).filter(child => child !== null && child !== undefined && child !== false));
  return el;
}

// Makes `now` look like `next`, and touches only what differs: so focus, selection and what was opened stay. What has an id
// is found again wherever it has moved.
function morph(now, next) {
  for (const { name } of [...now.attributes]) if (!next.hasAttribute(name) && name !== "open") now.removeAttribute(name);
  for (const { name, value } of [...next.attributes]) if (name !== "style" && now.getAttribute(name) !== value) now.setAttribute(name, value);
  if (now.style.width !== next.style.width) now.style.width = next.style.width;
  const named = new Map([...now.children].filter(one => one.id).map(one => [one.id, one]));
  let at = now.firstChild;
  for (const want of [...next.childNodes]) {
    const have = want.id ? named.get(want.id) : at && !at.id && at.nodeName === want.nodeName ? at : null;
    if (!have) { now.insertBefore(want, at); continue; }
    if (have === at) at = at.nextSibling; else now.insertBefore(have, at);
    if (want.nodeType === Node.TEXT_NODE) { if (have.data !== want.data) have.data = want.data; } else morph(have, want);
  }
  while (at) { const left = at; at = at.nextSibling; left.remove(); }
}

const isNumber = value => typeof value === "number" && isFinite(value);
const text = (value, most = 300) => typeof value === "string" ? value.slice(0, most) : "";
const list = value => Array.isArray(value) ? value.slice(0, 400) : [];

function bytes(n) {
  if (!isNumber(n)) return "?";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let nth = 0;
  while (n >= 1024 && nth < units.length - 1) { n /= 1024; nth++; }
  return `${nth && n < 10 ? n.toFixed(1) : Math.round(n)} ${units[nth]}`;
}
// Two digits that matter, as the program prints them.
const speed = n => isNumber(n) ? (n < 10 ? n.toFixed(1) : String(Math.round(n))) : null;

function span(seconds) {
  if (!isNumber(seconds)) return "?";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return seconds < 86400 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86400)} d`;
}
const ago = seconds => !isNumber(seconds) ? "" : seconds < 1.5 ? "now" : seconds < 60 ? `${Math.round(seconds)} s ago` : `${span(seconds)} ago`;
// A door calls its own engine `local`.
const named = (why, host) => why.replace(/(^|; |\()local:/g, `$1${host}:`);
const sentence = words => `${words.charAt(0).toUpperCase()}${words.slice(1)}${/[.!?]$/.test(words) ? "" : "."}`;
const count = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;

// A reply that is no success, in the words that came with it.
class Refused extends Error {
  constructor(status, words) { super(words); this.status = status; }
}

// What is shown beside the cookie. A browser sends cookies to every port of a name; this storage is of one port alone.
const proof = {
  own: "",
  get() { try { return localStorage.getItem("proof") ?? this.own; } catch { return this.own; } },
  set(value) { this.own = value; try { localStorage.setItem("proof", value); } catch { /* then it ends with this page */ } },
  drop() { this.own = ""; try { localStorage.removeItem("proof"); } catch { /* it was not there */ } },
};

async function ask(path, options = {}) {
  const headers = { "x-bramble-proof": proof.get(), ...options.headers };
  const reply = await fetch(path, { cache: "no-store", credentials: "same-origin", redirect: "error", ...options, headers });
  if (reply.ok) return reply;
  let words = `it answered ${reply.status}`;
  try { words = text((await reply.json()).error.message, 600) || words; } catch { /* no words of its own */ }
  throw new Refused(reply.status, words);
}
const post = (path, body, more = {}) => ask(path, { method: "POST", headers: { "content-type": "application/json", ...more.headers }, body: JSON.stringify(body), signal: more.signal });

function trouble(words) {
  $("trouble").hidden = !words;
  if ($("trouble").textContent !== words) $("trouble").textContent = words;
}
