"""Lighthouse's figures of the page, at `bramble ui` with its fleet shown and at a door that asks for a key.

    vitals.py PROGRAMS LIGHTHOUSE

PROGRAMS has `bramble` and `brambled`, LIGHTHOUSE is its command. It plays a phone of the middle range on a slow link, and tells as
`NAME = VALUE` its three marks of 100 and when something, and the largest part, was to be seen.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import fleet as played

MARKS = ["performance", "accessibility", "best-practices"]
TIMES = {"first-contentful-paint": "first_paint_ms", "largest-contentful-paint": "largest_paint_ms", "total-blocking-time": "blocked_ms"}


def look(lighthouse, url, folder):
    told = folder / "told.json"
    flags = "--headless=new --no-sandbox --disable-gpu --ignore-certificate-errors"
    run = [lighthouse, url, "--quiet", "--output=json", f"--output-path={told}", f"--only-categories={','.join(MARKS)}", f"--chrome-flags={flags}"]
    subprocess.run(run, check=True, env=os.environ | {"CHROME_PATH": played.browser()}, stdout=sys.stderr)
    return json.loads(told.read_text())


def tell(name, report, answer):
    """Prints the figures, of a page that has asked for `answer` and got it."""
    trouble = report.get("runtimeError")
    assert not trouble, trouble
    asked = {(one["url"].rsplit("/", 1)[-1], one["statusCode"]) for one in report["audits"]["network-requests"]["details"]["items"]}
    assert answer in asked, f"it was not shown as it should: {asked}"
    for mark in MARKS:
        print(f"page.lighthouse.{name}.{mark.replace('-', '_')} = {report['categories'][mark]['score'] * 100:.0f}")
    for audit, short in TIMES.items():
        print(f"page.lighthouse.{name}.{short} = {report['audits'][audit]['numericValue']:.0f}")
    for audit in report["audits"].values():
        if audit["score"] is not None and audit["score"] < 0.9 and audit["scoreDisplayMode"] in ["binary", "numeric", "metricSavings"]:
            print(f"{name}: {audit['title']}: {audit.get('displayValue', '')}", file=sys.stderr)


def main():
    programs, lighthouse = pathlib.Path(sys.argv[1]), sys.argv[2]
    with tempfile.TemporaryDirectory(prefix="bramble-page-") as root:
        fleet = played.Fleet(root, programs, True)
        try:
            tell("ui", look(lighthouse, fleet.link, pathlib.Path(root)), ("status", 200))
            tell("door", look(lighthouse, f"{fleet.at(fleet.kitchen)}/", pathlib.Path(root)), ("session", 200))
        finally:
            fleet.end()


main()
