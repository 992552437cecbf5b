// Comes in by a session, and looks at the fleet every two seconds while somebody sees it.
const page = { scopes: [], status: null, models: null, timer: null };
const EVERY = 2000;

function showSignIn(words) {
  clearTimeout(page.timer);
  page.scopes = [];
  for (const id of ["parts", "tabs", "who"]) $(id).hidden = true;
  $("sign-in").hidden = false;
  $("key-wrong").textContent = words || "";
  $("title").textContent = "Bramble";
  $("key-field").focus();
}

function showPart(part) {
  $("parts").classList.toggle("on-chat", part === "chat");
  $("parts").classList.toggle("on-fleet", part === "fleet");
  $("to-fleet").setAttribute("aria-pressed", String(part === "fleet"));
  $("to-chat").setAttribute("aria-pressed", String(part === "chat"));
}

async function look() {
  clearTimeout(page.timer);
  if (document.hidden) return;
  try {
    page.status = await (await ask("/status")).json();
    trouble("");
    drawFleet(page.status);
    offer(page.status, page.models);
  } catch (error) {
    if (error.status === 401) return showSignIn("This session has ended.");
    trouble(error.status ? `The status cannot be had: ${error.message}` : "There is no connection. What is shown is from before; trying again.");
  }
  const isApplying = page.status?.apply?.state === "running";
  page.timer = setTimeout(look, isApplying ? EVERY / 4 : EVERY);
}

async function begin(session) {
  page.scopes = list(session.scopes);
  const [looks, asks] = ["status", "infer"].map(scope => page.scopes.includes(scope));
  $("sign-in").hidden = true;
  $("parts").hidden = $("who").hidden = false;
  $("tabs").hidden = !(looks && asks);
  $("parts").classList.toggle("only-fleet", looks && !asks);
  $("parts").classList.toggle("only-chat", asks && !looks);
  $("key").textContent = `key ${text(session.key, 80)}`;
  showPart(looks ? "fleet" : "chat");
  if (looks) await look();
  if (asks && !looks) {
    try {
      page.models = list((await (await ask("/v1/models")).json()).data).map(model => text(model.id, 80));
      offer(null, page.models);
    } catch (error) { trouble(`The models cannot be had: ${error.message}`); }
  }
}

async function showKey(key, isLink) {
  try {
    const session = await (await post("/session", { key })).json();
    proof.set(text(session.proof, 80));
    await begin(session);
    $("key-field").value = "";
  } catch (error) {
    const words = !error.status ? "There is no connection." : isLink && error.status === 401 ? "This link was used before. `bramble ui` prints another each time one is used." : sentence(error.message);
    showSignIn(words);
  }
}

$("key-form").addEventListener("submit", event => {
  event.preventDefault();
  const key = $("key-field").value.trim();
  if (key) showKey(key, false);
});
$("leave").addEventListener("click", async () => {
  try { await ask("/session", { method: "DELETE" }); } catch { /* then it ends by itself */ }
  proof.drop();
  clearChat();
  showSignIn("");
});
$("to-fleet").addEventListener("click", () => showPart("fleet"));
$("to-chat").addEventListener("click", () => { showPart("chat"); $("prompt").focus(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden && page.scopes.includes("status")) look(); });
startChat();

// What stands behind # is sent to nobody by itself: a token that is good once.
const token = /^#token=([0-9a-f]{64})$/.exec(location.hash)?.[1];
if (location.hash) history.replaceState(null, "", "/");
if (token) showKey(token, true);
else {
  try {
    const session = await (await ask("/session")).json();
    if (session.key) await begin(session); else showSignIn("");
  } catch (error) { showSignIn(error.status ? sentence(error.message) : "There is no connection."); }
}
