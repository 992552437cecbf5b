"""The page in a browser: the fleet, an apply as it goes, a chat whose engine dies in the middle, keys, a phone, the keyboard.

    suite.py PROGRAMS AXE PICTURES

PROGRAMS has `bramble` and `brambled`, AXE is axe-core's one file; pictures of what was seen go to PICTURES. Each case ends with
no word in the browser's console, but for those that it expects. The last line counts, as `N passed, N failed`.
"""

import fcntl
import json
import pathlib
import ssl
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request

from playwright.sync_api import expect, sync_playwright

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import fleet as played

WIDE, PHONE = {"width": 1360, "height": 900}, {"width": 360, "height": 740}
# of these, there may be none
GRAVE = {"serious", "critical"}


class Case:
    """One browser, with what it was shown and said."""

    def __init__(self, browser, fleet, axe, pictures, **options):
        self.fleet, self.axe, self.pictures = fleet, axe, pictures
        # the fleet's authority is nobody that the browser knows
        self.context = browser.new_context(viewport=options.pop("viewport", WIDE), ignore_https_errors=True, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(15000)
        expect.set_options(timeout=15000)
        self.said, self.expected, self.asked = [], [], []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def picture(self, name, full=True):
        # bars and cursors that move are never the same twice
        self.page.screenshot(path=self.pictures / f"{name}.png", full_page=full, animations="disabled")

    def open_ui(self):
        self.page.goto(self.fleet.link)
        expect(self.page.locator("#host-kitchen .engines")).to_be_visible()
        self.fleet.next_link()

    def open_door(self, host, key):
        self.page.goto(f"{self.fleet.at(host)}/")
        self.page.fill("#key-field", key)
        self.page.keyboard.press("Enter")

    def check_access(self, name):
        """Holds what is shown now to axe-core's rules."""
        # the page's own policy lets no other script run in it: axe is given a world beside it
        results = self.context.new_cdp_session(self.page)
        tree = results.send("Page.getFrameTree")["frameTree"]["frame"]["id"]
        world = results.send("Page.createIsolatedWorld", {"frameId": tree, "worldName": "axe"})["executionContextId"]
        results.send("Runtime.evaluate", {"expression": self.axe, "contextId": world})
        run = "axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] })"
        told = results.send("Runtime.evaluate", {"expression": run, "contextId": world, "awaitPromise": True, "returnByValue": True})
        assert "value" in told["result"], told
        value = told["result"]["value"]
        found = value["violations"]
        words = [f"{name}: {one['impact']}: {one['id']}: {one['help']}: {[node['html'][:120] for node in one['nodes']][:3]}" for one in found]
        assert len(value["passes"]) > 15, f"axe looked at {len(value['passes'])} rules only"
        grave = [word for word, one in zip(words, found) if one["impact"] in GRAVE]
        for word in words:
            print(f"    axe: {word}", flush=True)
        assert not grave, grave

    def fits(self):
        """Nothing sticks out at the side."""
        over = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert over <= 0, f"{over} pixels too wide"

    def end(self):
        unexpected = [word for word in self.said if not any(part in word for part in self.expected)]
        own = {self.fleet.link.split("/#")[0], *map(self.fleet.at, self.fleet.hosts)}
        elsewhere = [url for url in self.asked if not url.startswith("data:") and "/".join(url.split("/")[:3]) not in own]
        self.context.close()
        assert not unexpected, f"the console says {unexpected}"
        assert not elsewhere, f"it asked elsewhere: {elsewhere}"


def ask(case, question, at=None, model=None):
    if at:
        case.page.select_option("#at", at)
    if model:
        case.page.select_option("#model", model)
    case.page.fill("#prompt", question)
    case.page.click("#send")


def is_answered(case):
    expect(case.page.locator("#send")).to_have_text("Send")


def the_fleet_is_shown_with_what_it_is_and_what_is_wrong(case):
    case.open_ui()
    page = case.page
    assert "token" not in page.url, "the link's token stays nowhere"
    kitchen, desk, shed = (page.locator(f"#host-{name}") for name in ["kitchen", "desk", "shed"])
    expect(kitchen.locator(".engines")).to_contain_text("chatQ4_K_Mready8.27.9")
    expect(desk.locator(".engines")).to_contain_text("writerQ5_K_Mready1211")
    expect(kitchen.locator(".chain").first).to_contain_text("kitchen")
    expect(kitchen.locator(".chain .hop")).to_have_count(4)
    expect(kitchen.locator(".vital.memory")).to_contain_text("GiB")
    expect(shed).to_contain_text("does not answer")
    expect(shed.locator(".why")).to_have_text("connection refused")
    expect(page.locator(".sum")).to_contain_text("4 hosts")
    # a Pi that is not well: heat, supply and what it loads
    attic = page.locator("#host-attic")
    expect(attic.locator(".heat")).to_contain_text("82 °C")
    expect(attic.locator(".heat")).to_contain_text("too little voltage throttled")
    expect(attic.locator(".engines")).to_contain_text("loading 62 %")
    expect(attic).to_contain_text("cordoned")
    expect(attic.locator(".hop").nth(1)).to_contain_text("desk asleep")
    case.check_access("fleet")
    case.picture("fleet-light")
    page.emulate_media(color_scheme="dark")
    case.check_access("fleet, dark")
    case.picture("fleet-dark")
    # a link is good once
    page.context.clear_cookies()
    page.goto("about:blank")
    page.goto(f"{case.fleet.link.split('#')[0]}#token={'0' * 64}")
    case.expected.append("status of 401")
    expect(page.locator("#key-wrong")).to_contain_text("This link was used before")


def an_answer_comes_as_it_is_made_and_somebody_else_goes_on_with_it(case):
    case.open_ui()
    page, engine = case.page, case.fleet.kitchen.engines["chat"]
    engine.dies_after = 20
    ask(case, "What is a bramble?", at="kitchen")
    # it is there before it is whole
    expect(page.locator(".part").first).to_contain_text("A bramble is any")
    expect(page.locator("#send")).to_have_text("Stop")
    expect(page.locator(".turn")).to_have_text("kitchen: connection ended in the middle. desk goes on from here.")
    is_answered(case)
    assert "".join(page.locator(".part").all_text_contents()) == played.STORY, page.locator(".part").all_text_contents()
    expect(page.locator(".by strong")).to_have_text(["kitchen", "desk"])
    expect(page.locator(".requests .request").first).to_contain_text("chat by kitchen, then desk")
    expect(page.locator(".requests .request").first).to_contain_text("kitchen: connection ended in the middle")
    expect(page.locator("#host-kitchen .engines")).to_contain_text("not there")
    # the next question goes past who is gone, and it is said why
    ask(case, "And again?")
    expect(page.locator(".turn").last).to_have_text("kitchen: connection ended in the middle. desk answers in its place.")
    is_answered(case)
    expect(page.locator(".by").last.locator("strong")).to_have_text(["desk"])
    expect(page.locator("#said")).to_have_text("answered by desk")
    # it has failed twice in a row: nobody asks it for some seconds, and then the next request does
    ask(case, "And once more?")
    is_answered(case)
    expect(page.locator("#host-kitchen .hop").first).to_contain_text("kitchen tried with the next request")
    case.check_access("chat")
    case.picture("chat", full=False)
    engine.is_gone = False
    ask(case, "Are you back?")
    is_answered(case)
    expect(page.locator(".by").last.locator("strong")).to_have_text(["kitchen"])
    expect(page.locator("#host-kitchen .hop").first).to_contain_text("breaker closed")


def what_a_model_says_is_text_and_can_be_stopped(case):
    case.open_ui()
    page = case.page
    ask(case, "<img src=x onerror=alert(2)>", at="desk", model="writer")
    is_answered(case)
    expect(page.locator(".part")).to_have_text(played.STRANGE)
    expect(page.locator(".mine")).to_have_text("<img src=x onerror=alert(2)>")
    assert page.locator("#log img, #log script").count() == 0
    page.click("#anew")
    ask(case, "A long one", model="chat")
    expect(page.locator(".part")).to_contain_text("A bramble")
    page.click("#send")
    expect(page.locator(".turn")).to_have_text("Stopped.")
    is_answered(case)
    expect(page.locator(".requests .request").first).to_contain_text("client left")


def an_apply_is_seen_as_it_goes_and_when_it_breaks_off(case):
    case.open_ui()
    page, folder = case.page, case.fleet.folder
    work = lambda what, state, done, total, outcome=None: {"host": "kitchen", "what": what, "total": total, "done": done, "state": state, "outcome": outcome, "seconds": 3.0}
    doing = {"verb": "apply", "by": "ada@desk", "began": int(time.time()) - 12, "ended": None, "state": "running", "notes": [{"host": "shed", "text": "left out: it does not answer"}]}
    (folder / "doing.lock").touch(0o600)
    with open(folder / "doing.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def write(*works, **more):
            (folder / "new.json").write_text(json.dumps({**doing, **more, "works": works}))
            (folder / "new.json").rename(folder / "doing.json")

        made = work("making Q4_K_M of chat", "done", 0, None)
        write(made, work("pushing chat (Q4_K_M)", "running", 1 << 30, 4 << 30), work("pushing brambled", "running", 0, None))
        bar = page.get_by_role("progressbar", name="kitchen: pushing chat (Q4_K_M)")
        expect(bar).to_have_attribute("aria-valuenow", "25")
        expect(page.locator("#apply")).to_contain_text("1.0 GiB of 4.0 GiB")
        page.locator("#apply summary").click()
        case.check_access("apply")
        case.picture("apply", full=False)
        write(made, work("pushing chat (Q4_K_M)", "running", 3 << 30, 4 << 30))
        expect(bar).to_have_attribute("aria-valuenow", "75")
        # what was opened stays open while bars move
        expect(page.locator("#apply details")).to_have_attribute("open", "")
    # killed: nobody holds the lock any more
    expect(page.locator("#apply")).to_contain_text("broke off")
    write(made, work("activating generation 4", "failed", 0, None, "the host has no room"), state="failed", ended=int(time.time()))
    expect(page.locator("#apply .error")).to_have_text("the host has no room")
    (folder / "doing.json").unlink()
    expect(page.locator("#apply")).to_have_count(0)


def a_door_opens_to_a_key_and_only_as_far_as_that_goes(case):
    page, kitchen = case.page, case.fleet.kitchen
    case.open_door(kitchen, "a wrong key")
    expect(page.locator("#key-wrong")).to_have_text("This key opens nothing here.")
    case.expected.append("status of 401")
    case.check_access("a wrong key")
    case.picture("wrong-key", full=False)
    page.fill("#key-field", case.fleet.keys["phone"])
    page.get_by_role("button", name="Enter").click()
    expect(page.locator("#host-kitchen .engines")).to_be_visible()
    expect(page.locator("#title")).to_have_text("home · kitchen")
    expect(page.locator("#fleet-body")).not_to_contain_text("shed")
    cookie = next(one for one in case.context.cookies() if one["name"].endswith(f"bramble-{kitchen.port}"))
    assert cookie["secure"] == cookie["name"].startswith("__Host-") == (case.fleet.scheme == "https"), cookie
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict" and case.fleet.keys["phone"] not in cookie["value"], cookie
    # what lies here opens nothing without the cookie, which no script has
    stored = page.evaluate("[document.cookie, Object.keys(localStorage).join(), localStorage.proof, JSON.stringify(sessionStorage)]")
    assert stored[:2] + stored[3:] == ["", "proof", "{}"] and len(stored[2]) == 64 and stored[2] != cookie["value"], stored
    ask(case, "What is a bramble?", model="chat")
    is_answered(case)
    expect(page.locator(".part")).to_have_text(played.STORY)
    # it is there again after a reload, and gone after a goodbye
    page.reload()
    expect(page.locator("#host-kitchen .engines")).to_be_visible()
    case.picture("door")
    page.click("#leave")
    expect(page.locator("#sign-in")).to_be_visible()
    page.reload()
    expect(page.locator("#sign-in")).to_be_visible()
    case.open_door(kitchen, case.fleet.keys["client"])
    expect(page.locator("#chat")).to_be_visible()
    expect(page.locator("#fleet")).to_be_hidden()
    expect(page.locator("#model option")).to_have_text(["chat", "writer"])
    page.click("#leave")
    case.open_door(kitchen, case.fleet.keys["panel"])
    expect(page.locator("#host-kitchen .engines")).to_be_visible()
    expect(page.locator("#chat")).to_be_hidden()


def another_site_gets_nothing(case):
    """A page elsewhere, in a browser that has a session, asks in all the ways that browsers offer."""
    page, kitchen = case.page, case.fleet.kitchen
    case.open_door(kitchen, case.fleet.keys["phone"])
    expect(page.locator("#host-kitchen .engines")).to_be_visible()
    door = case.fleet.at(kitchen)
    case.context.route("http://evil.example/**", lambda route: route.fulfill(body="<!doctype html><title>evil</title>", content_type="text/html"))
    page.goto("http://evil.example/")
    case.asked.clear()
    case.said.clear()
    tried = page.evaluate(
        """async door => {
            const tries = [];
            for (const options of [{ credentials: "include" }, { credentials: "include", method: "POST", body: "{}" }, { mode: "no-cors", credentials: "include" }]) {
                for (const path of ["/status", "/session", "/v1/chat/completions"]) {
                    try { const reply = await fetch(door + path, options); tries.push(reply.type === "opaque" ? "opaque" : reply.status); } catch { tries.push("refused"); }
                }
            }
            const frame = document.createElement("iframe");
            frame.src = door + "/";
            document.body.append(frame);
            await new Promise(done => { frame.onload = done; setTimeout(done, 2000); });
            return tries;
        }""",
        door,
    )
    assert set(tried) <= {"refused", "opaque"}, tried
    framed = [frame for frame in page.frames if frame.url.startswith(door)]
    assert not framed or not framed[0].query_selector("#key-field"), "it can be framed"
    case.said.clear()
    page.goto(f"{door}/")
    expect(page.locator("#host-kitchen .engines")).to_be_visible()
    case.asked.clear()
    # a name of somebody else's that leads here
    request = urllib.request.Request(f"{door}/session", data=b'{"key": "x"}', headers={"Host": "evil.example", "Content-Type": "application/json", "Origin": "https://evil.example"})
    try:
        urllib.request.urlopen(request, context=ssl._create_unverified_context())
        raise AssertionError("it was listened to")
    except urllib.error.HTTPError as error:
        assert error.code == 403, error.code


def it_fits_on_a_phone(case):
    case.open_ui()
    page = case.page
    case.fits()
    case.check_access("phone")
    case.picture("phone-fleet")
    page.get_by_role("button", name="Chat").click()
    expect(page.locator("#fleet")).to_be_hidden()
    case.fleet.kitchen.engines["chat"].dies_after = 12
    ask(case, "What is a bramble? " + "x" * 200, at="kitchen", model="chat")
    is_answered(case)
    case.fleet.kitchen.engines["chat"].is_gone = False
    case.fits()
    case.check_access("phone, chat")
    case.picture("phone-chat", full=False)
    # nothing to press is smaller than a finger, but what stands in a line of text
    small = page.evaluate("[...document.querySelectorAll('button, select, textarea')].filter(one => one.offsetParent).map(one => one.getBoundingClientRect()).filter(box => box.height < 24 || box.width < 24).length")
    assert small == 0, f"{small} are too small"


def the_keyboard_alone_is_enough(case):
    page = case.page
    page.goto(f"{case.fleet.at(case.fleet.kitchen)}/")
    expect(page.locator("#key-field")).to_be_focused()
    page.keyboard.type(case.fleet.keys["phone"])
    page.keyboard.press("Enter")
    expect(page.locator("#host-kitchen .engines")).to_be_visible()
    for _ in range(30):
        if page.evaluate("document.activeElement.id") == "prompt":
            break
        page.keyboard.press("Tab")
    expect(page.locator("#prompt")).to_be_focused()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none", "it is seen where one is"
    page.keyboard.type("What is a bramble?")
    page.keyboard.press("Enter")
    is_answered(case)
    expect(page.locator(".part")).to_have_text(played.STORY)
    expect(page.locator("#prompt")).to_be_focused()


def a_door_that_goes_is_seen_to(case):
    case.open_door(case.fleet.desk, case.fleet.keys["phone"])
    page, desk = case.page, case.fleet.desk
    expect(page.locator("#host-desk .engines")).to_be_visible()
    case.expected += ["ERR_CONNECTION_REFUSED", "ERR_EMPTY_RESPONSE", "ERR_CONNECTION_RESET", "status of 401"]
    desk.process.terminate()
    desk.process.wait(10)
    expect(page.locator("#trouble")).to_contain_text("There is no connection")
    case.picture("no-connection", full=False)
    desk.open()
    # it has forgotten the session, and says so
    expect(page.locator("#key-wrong")).to_have_text("This session has ended.")


CASES = [
    (the_fleet_is_shown_with_what_it_is_and_what_is_wrong, {}),
    (an_answer_comes_as_it_is_made_and_somebody_else_goes_on_with_it, {}),
    (what_a_model_says_is_text_and_can_be_stopped, {}),
    (an_apply_is_seen_as_it_goes_and_when_it_breaks_off, {}),
    (a_door_opens_to_a_key_and_only_as_far_as_that_goes, {}),
    (another_site_gets_nothing, {}),
    (it_fits_on_a_phone, {"viewport": PHONE, "device_scale_factor": 2, "has_touch": True, "is_mobile": True}),
    (the_keyboard_alone_is_enough, {}),
    (a_door_that_goes_is_seen_to, {}),
]


# over plain HTTP, where browsers tell less of where a request comes from
PLAIN = [a_door_opens_to_a_key_and_only_as_far_as_that_goes, another_site_gets_nothing]


def run_all(fleet, browser, axe, pictures, cases):
    """Returns how many passed, and how many there were."""
    passed = 0
    for run, options in cases:
        name = f"{run.__name__} ({fleet.scheme})"
        case = Case(browser, fleet, axe, pictures, **options)
        began = time.monotonic()
        try:
            run(case)
            case.end()
            passed += 1
            print(f"ok {name} ({time.monotonic() - began:.1f} s)", flush=True)
        except Exception:
            if not case.page.is_closed():
                case.picture(f"failed-{run.__name__}")
            print(f"FAILED {name}\n{traceback.format_exc()}\nconsole: {case.said}", flush=True)
            case.context.close()
    return passed


def main():
    programs, axe, pictures = (pathlib.Path(argument) for argument in sys.argv[1:4])
    wanted = sys.argv[4:]
    pictures.mkdir(parents=True, exist_ok=True)
    passed = count = 0
    with sync_playwright() as playwright:
        # as root, Chromium wants to be told that it has no sandbox
        browser = playwright.chromium.launch(executable_path=played.browser(), args=["--no-sandbox", "--disable-gpu"])
        for tls in [True, False]:
            cases = [(run, options) for run, options in CASES if (tls or run in PLAIN) and (not wanted or run.__name__ in wanted)]
            with tempfile.TemporaryDirectory(prefix="bramble-page-") as root:
                fleet = played.Fleet(root, programs, tls)
                try:
                    page = urllib.request.urlopen(f"{fleet.at(fleet.kitchen)}/", context=ssl._create_unverified_context()).read()
                    if tls:
                        print(f"page.kb = {len(page) / 1024:.1f}", flush=True)
                    count += len(cases)
                    passed += run_all(fleet, browser, axe.read_text(), pictures if tls else pictures / "plain", cases)
                finally:
                    fleet.end()
        browser.close()
    print(f"{passed} passed, {count - passed} failed")
    return 0 if passed == count else 1


sys.exit(main())
