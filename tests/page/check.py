"""Drives the page at /ui in headless Chromium as a person would, and keeps a screenshot.

    python3 tests/page/check.py --bin target/release [--screenshot FILE]

Needs Debian's packages `chromium` and `chromium-driver`; speaks the WebDriver protocol with the standard library alone.
Starts `moco-serve` on the folder of an earlier `make demo` (runs/demo), picks a held-out cell, looks at its neighbours,
clicks one, goes back, drops another cell, asks with something that is no picture, and checks that the browser reported no error.
"""

import argparse
import base64
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
CHROMIUM = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=1280,900",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
]


class Browser:
    """A WebDriver session."""

    def __init__(self, driver_port: int, profile: str):
        self.base = f"http://127.0.0.1:{driver_port}"
        options = {"args": [*CHROMIUM, f"--user-data-dir={profile}"], "binary": shutil.which("chromium")}
        capabilities = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        answer = self.call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self.base += f"/session/{answer['sessionId']}"

    def call(self, method: str, path: str, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"content-type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise SystemExit(f"page-check: {path}: {error.read().decode()}")

    def run(self, script: str, *arguments):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, selector: str) -> str:
        return self.call("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def until(self, what: str, script: str, *arguments):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            value = self.run(script, *arguments)
            if value:
                return value
            time.sleep(0.05)
        raise SystemExit(f"page-check: {what} did not happen within 20 s; the page says: {self.status()}")

    def status(self) -> str:
        return self.run("return document.getElementById('status').textContent")

    def choose(self, path: Path) -> None:
        self.call("POST", f"/element/{self.find('#file')}/value", {"text": str(path)})

    def drop(self, path: Path) -> None:
        """What a person's dragging ends in: a drop on the page, with a file in its hand."""
        self.run(
            "const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0)), dataTransfer = new DataTransfer();"
            "dataTransfer.items.add(new File([bytes], arguments[1], {type: 'image/png'}));"
            "for (const kind of ['dragenter', 'dragover', 'drop'])"
            "  document.getElementById('drop').dispatchEvent(new DragEvent(kind, {dataTransfer, bubbles: true, cancelable: true}));",
            base64.b64encode(path.read_bytes()).decode(), path.name)

    def hits(self):
        return self.run(
            "return [...document.querySelectorAll('#hits li')].map(li => ({score: +li.querySelector('.score').textContent,"
            " name: li.querySelector('.name').textContent, drawn: li.querySelector('img')?.naturalWidth > 0}))"
        )


def start(command, ready: str, name: str):
    """Starts a process and reads its output until a line contains `ready`."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if ready in line:
            return process, line
    raise SystemExit(f"page-check: {name} ended with {process.wait()} before it was ready")


def check(condition: bool, sentence: str) -> None:
    if not condition:
        raise SystemExit(f"page-check: FAILED: {sentence}")
    print(f"  ok: {sentence}")


def drive(browser: Browser, url: str, picture: Path, screenshot: Path) -> None:
    browser.call("POST", "/url", {"url": f"{url}/ui"})
    browser.until("the list of collections", "return document.getElementById('collection').options.length > 0")
    about = browser.until("the description", "return document.getElementById('about').textContent")
    check("pictures" in about, f"the page describes its collection: {about}")

    browser.choose(picture)
    browser.until("an answer", "return document.querySelectorAll('#hits li').length === 20 && [...document.images].every(i => i.complete)")
    hits = browser.hits()
    check(all(hit["drawn"] for hit in hits), "all 20 neighbours are shown as pictures")
    scores = [hit["score"] for hit in hits]
    check(scores == sorted(scores, reverse=True) and scores[0] > 0.5, f"scores fall from {scores[0]} to {scores[-1]}")
    check(browser.run("return document.getElementById('picture').naturalWidth > 0"), "the query picture is shown")
    screenshot.write_bytes(base64.b64decode(browser.call("GET", "/screenshot")))

    browser.call("POST", f"/element/{browser.find('#hits li:nth-child(2) button')}/click", {})
    second = hits[1]["name"]
    browser.until("the search from a neighbour", "return document.getElementById('caption').textContent === arguments[0]"
                  " && document.querySelectorAll('#hits li').length === 20 && document.getElementById('status').textContent.includes('nearest')", second)
    check(second not in [hit["name"] for hit in browser.hits()], "a clicked neighbour is searched on from, and is not its own hit")

    browser.call("POST", f"/element/{browser.find('#back')}/click", {})
    browser.until("the way back", "return document.getElementById('caption').textContent === arguments[0]"
                  " && document.querySelector('#hits .name')?.textContent === arguments[1]", picture.name, hits[0]["name"])
    check(True, "Back returns to the first query and its answer")

    another = sorted((picture.parent.parent / "RBC").glob("*.png"))[0]
    browser.drop(another)
    browser.until("the search for a dropped picture", "return document.getElementById('caption').textContent === arguments[0]"
                  " && document.querySelector('#hits .name')?.textContent !== arguments[1]"
                  " && document.querySelectorAll('#hits li').length === 20", another.name, hits[0]["name"])
    check(True, "a picture that is dropped on the page is searched for")

    with tempfile.NamedTemporaryFile(suffix=".png") as broken:
        broken.write(b"this is no picture")
        broken.flush()
        browser.choose(Path(broken.name))
        browser.until("the refusal", "return document.getElementById('status').classList.contains('fault')")
    check(browser.status().startswith("The search failed: "), f"a broken picture is refused in words: {browser.status()}")

    faults = [entry["message"] for entry in browser.call("POST", "/se/log", {"type": "browser"}) if entry["level"] == "SEVERE"]
    faults = [message for message in faults if "points/query" not in message]  # the refusal above
    check(not faults, f"the browser reported no error {faults}")
    loaded = browser.run("return performance.getEntriesByType('resource').map(r => r.name)")
    check(all(name.startswith(url) or name.startswith("data:") for name in loaded), "every resource came from the server itself")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=Path, default=ROOT / "target/release")
    parser.add_argument("--run", type=Path, default=ROOT / "runs/demo")
    parser.add_argument("--screenshot", type=Path, default=ROOT / "runs/page.png")
    arguments = parser.parse_args()
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        sys.exit("page-check: Chromium is missing: install Debian's packages with 'apt-get install chromium chromium-driver'")
    model, data = arguments.run / "model.onnx", arguments.run / "data"
    if not (model.is_file() and data.is_dir()):
        sys.exit(f"page-check: {arguments.run} holds no demo: run 'make demo EXIT=1' first")
    picture = sorted((ROOT / "tests/data/cells/held-out/WBC").glob("*.png"))[0]
    arguments.screenshot.parent.mkdir(parents=True, exist_ok=True)

    serve = [arguments.bin / "moco-serve", "--model", model, "--data-dir", data, "--listen", "127.0.0.1:0"]
    server, line = start(serve, "listening on ", "moco-serve")
    url = line.split("listening on ", 1)[1].strip()
    try:
        wait_until_ready(url)
        driver, line = start(["chromedriver", "--port=0"], "started successfully on port", "chromedriver")
        try:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
                browser = Browser(int(line.rstrip(".\n ").rsplit(" ", 1)[1]), profile)
                try:
                    drive(browser, url, picture, arguments.screenshot)
                finally:
                    browser.call("DELETE", "")
        finally:
            driver.terminate()
    finally:
        server.terminate()
    print(f"page-check: all passed; look at {arguments.screenshot}")


def wait_until_ready(url: str) -> None:
    for _ in range(200):
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=5)
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise SystemExit("page-check: the server was not ready within 20 s")


if __name__ == "__main__":
    main()
