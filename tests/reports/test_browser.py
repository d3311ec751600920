"""The pages in Debian's Chromium: nothing fails, nothing is fetched, everything is seen, wide and narrow."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fullrank.files import save_arrays
from fullrank.record import Record, RowMap
from fullrank.reports.page import write_page
from fullrank.theory.run import run_theorem

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium"),
]
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
    "--enable-unsafe-swiftshader",  # WebGL without a graphics card
]
DESKTOP, PHONE = (1280, 900, "light"), (390, 844, "dark")
EVIL = "</script><script>window.stolen=1</script><img src=http://nowhere.invalid/x onerror=window.stolen=1>"

# For every plot: its box, how many traces are drawn in it, and the boxes of the labels on its axes.
PLOTS = """[...document.querySelectorAll('.plot')].map(plot => {
  const box = e => (({left, right, top, bottom}) => ({left, right, top, bottom}))(e.getBoundingClientRect());
  const labels = name => [...plot.querySelectorAll(name)].map(box);
  return {
    ...box(plot), heading: plot.parentNode.querySelector('h3').textContent,
    traces: plot.querySelectorAll('.scatterlayer .trace, .barlayer .trace, .heatmaplayer image').length,
    x: labels('.xtick text'), y: labels('.ytick text'),
  };
})"""
# The contrast (WCAG 2.1) between the colours of the verdict's words and of the page.
CONTRAST = """(() => {
  const light = element => {
    const style = getComputedStyle(element);
    const parts = (element === document.body ? style.backgroundColor : style.color).match(/\\d+/g);
    const part = c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = parts.slice(0, 3).map(c => part(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  return [...document.querySelectorAll('.verdict p, .level, .soft')].map(element => {
    const pair = [light(element), light(document.body)];
    return Math.max(...pair) / Math.min(...pair);
  });
})()"""


class Browser:
    """Chromium under its DevTools protocol, spoken over two pipes: JSON messages that end in a zero byte."""

    def __init__(self, profile: Path):
        theirs, self._to = os.pipe()
        self._from, also_theirs = os.pipe()
        # Chromium reads from descriptor 3 and writes to 4; bash moves ours there.
        command = ["bash", "-c", f'exec "$@" 3<&{theirs} 4>&{also_theirs}', "bash", str(CHROMIUM)]
        self._process = subprocess.Popen(
            [*command, *QUIET, f"--user-data-dir={profile}"],
            pass_fds=(theirs, also_theirs),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(also_theirs)
        self._number, self._unread, self._session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the method returns; events that come before are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def open(self, path: Path, width: int, height: int, scheme: str) -> None:
        """Load a file in a window of this size and wait until it has loaded."""
        self.events.clear()
        self.resize(width, height, scheme)
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())
        self._settle()

    def resize(self, width: int, height: int, scheme: str) -> None:
        """Another window and colour scheme for the page that is open."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])
        self._settle()

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page, a promise awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self) -> bytes:
        """The whole page as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def close(self) -> None:
        self._session = ""
        self.call("Browser.close")
        self._process.wait(timeout=30)
        os.close(self._to)
        os.close(self._from)

    def _settle(self) -> None:
        self.ask("new Promise(done => setTimeout(() => requestAnimationFrame(() => done(1)), 150))")

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            chunk = os.read(self._from, 1 << 20)
            assert chunk, "Chromium ended"
            self._unread += chunk
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    started = Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


def troubles(events: list[dict[str, Any]]) -> list[str]:
    """Console errors and warnings, exceptions, and requests for anything but files and data."""
    found = []
    for event in events:
        method, detail = event["method"], event["params"]
        wanted = detail["request"]["url"] if method == "Network.requestWillBeSent" else "file:"
        if method == "Log.entryAdded" and "GL Driver Message" in detail["entry"]["text"]:
            continue  # how fast WebGL is without a graphics card
        if method in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
            found.append(json.dumps(detail))
        if not wanted.startswith(("file:", "data:")):
            found.append(wanted)
    return found


def look(browser: Browser) -> list[str]:
    """Check that all of the page can be seen at the size it has; the headings of its pictures."""
    width = browser.ask("innerWidth")
    assert browser.ask("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    verdict = browser.ask(
        "(b => [b.left, b.top, b.right, b.height])(document.querySelector('.verdict')"
        ".getBoundingClientRect())"
    )
    assert verdict[0] >= 0 and verdict[1] < 420 and verdict[2] <= width and verdict[3] > 20
    assert browser.ask("document.querySelector('.verdict').checkVisibility()")
    assert min(browser.ask(CONTRAST)) >= 4.5
    plots = browser.ask(PLOTS)
    for plot in plots:
        assert plot["traces"] > 0, plot["heading"]
        assert plot["left"] >= 0 and plot["right"] <= width and plot["bottom"] - plot["top"] > 150, plot
        assert plot["right"] - plot["left"] > 0.6 * min(width, 440), plot
        for one, other in [*zip(plot["x"], plot["x"][1:], strict=False)]:
            assert one["right"] <= other["left"] + 1 or one["left"] >= other["left"], (plot["heading"], "x")
        for one, other in zip(plot["y"], plot["y"][1:], strict=False):
            assert one["bottom"] <= other["top"] + 3 or other["bottom"] <= one["top"] + 3, plot["heading"]
        for label in plot["x"] + plot["y"]:
            assert label["left"] >= plot["left"] - 1 and label["right"] <= plot["right"] + 1, plot["heading"]
    return [plot["heading"] for plot in plots]


PAGES = {
    "study_record": 7,
    "collapsed_diagnosis": 7,
    "deep_diagnosis": 6,
    "watched_record": 4,
    "table_record": 3,
}


@pytest.mark.parametrize("name", PAGES)
def test_all_is_seen_and_nothing_fails(
    name: str, request: pytest.FixtureRequest, browser: Browser, store, tmp_path: Path
) -> None:
    page = write_page(store(request.getfixturevalue(name), tmp_path))
    browser.open(page, *DESKTOP)
    wide = look(browser)
    light = browser.ask("getComputedStyle(document.body).backgroundColor")
    browser.resize(*PHONE)
    assert look(browser) == wide and len(wide) == PAGES[name]
    assert browser.ask("getComputedStyle(document.body).backgroundColor") != light
    assert not troubles(browser.events)


def test_the_page_of_a_theorem_is_seen(browser: Browser, tmp_path: Path) -> None:
    run = run_theorem("implicit-regularization", out=tmp_path, steps=100)
    browser.open(write_page(run.path), *DESKTOP)
    wide = look(browser)
    browser.resize(*PHONE)
    assert look(browser) == wide and len(wide) == len(run.entry.panels) == 4
    assert not troubles(browser.events)


def test_hostile_names_run_nothing(
    collapsed_diagnosis: Record, browser: Browser, store, tmp_path: Path
) -> None:
    text = collapsed_diagnosis.model_dump_json()
    for word in ("layer3.0", "crop", "stable_rank", "runs/digits", "constant", "Weaken"):
        text = text.replace(word, EVIL)
    browser.open(write_page(store(Record.model_validate_json(text), tmp_path)), *PHONE)
    assert browser.ask("window.stolen === undefined")
    assert "script><script>window.stolen" in browser.ask("document.title")
    assert browser.ask("document.documentElement.scrollWidth <= innerWidth")
    assert browser.ask("document.querySelectorAll('.plot .trace').length") > 6
    assert not troubles(browser.events)


def test_the_key_works_by_keyboard(
    healthy_diagnosis: Record, browser: Browser, store, tmp_path: Path
) -> None:
    browser.open(write_page(store(healthy_diagnosis, tmp_path)), *DESKTOP)
    button = "[...document.querySelectorAll('.key button')].find(b => b.textContent === 'h')"
    browser.ask(f"{button}.focus()")
    enter = {"key": "Enter", "code": "Enter", "text": "\r", "windowsVirtualKeyCode": 13}
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, **enter)
    assert browser.ask(f"{button}.getAttribute('aria-pressed')") == "true"
    plot = "[...document.querySelectorAll('.plot')].find(p => p.data.some(trace => trace.name === 'h'))"
    shown = browser.ask(f"{plot}.data.map(trace => [trace.name, trace.opacity])")
    assert [name for name, opacity in shown if opacity == 1] == ["h"] and len(shown) == 7
    # A second press lets all stand out again.
    browser.ask(f"{button}.click()")
    assert set(browser.ask(f"{plot}.data.map(trace => trace.opacity)")) == {1}


def test_the_map_is_coloured_highlighted_and_searched(
    file_diagnosis: Record, browser: Browser, store, tmp_path: Path
) -> None:
    rows = 60
    arrays = {
        "xy": np.random.default_rng(0).normal(size=(rows, 2)).astype(np.float32),
        "rows": np.arange(rows) * 2,
        "clusters": np.arange(rows, dtype=np.uint8) % 3,
        "findings": np.full(rows, -1, np.int16),
        "causes": np.array([], "<U1"),
        "labels": np.arange(rows, dtype=np.int32) % 2,
        "classes": np.array([EVIL, "b"]),
        "ids": np.array([f"{EVIL} {row}" for row in range(rows)]),
        "shown": np.arange(rows),
        "images": np.full((rows, 8, 8, 1), 99, np.uint8),
    }
    said = {"method": "pca", "place": "h", "rows": rows, "total": rows, "seed": 0, "clusters": 3}
    entry = RowMap(variance=(0.5, 0.2), components=2, components_variance=0.7, **said)
    diagnosis = file_diagnosis.diagnosis.model_copy(update={"map": entry})
    folder = store(file_diagnosis.model_copy(update={"diagnosis": diagnosis}), tmp_path)
    save_arrays(folder, {f"map/{name}": array for name, array in arrays.items()})
    browser.open(write_page(folder), *PHONE)
    plot = "document.querySelector('.map .plot')"
    assert browser.ask("document.documentElement.scrollWidth <= innerWidth")
    assert browser.ask(f"{plot}.querySelectorAll('canvas').length") > 0
    colors = f"[...{plot}._fullData[0].marker.color]"
    # Each class has its colour; one that is pressed stays, and the others fade.
    assert sorted(set(browser.ask(colors))) == [1, 2]
    browser.ask("document.querySelector('.marks:not([hidden]) button').click()")
    assert sorted(set(browser.ask(colors))) == [1, 21]
    select = "document.getElementById('map-colouring')"
    browser.ask(f"{select}.value = 1; {select}.dispatchEvent(new Event('change'))")
    assert sorted(set(browser.ask(colors))) == [1, 2, 3]
    field, card = "document.getElementById('map-row')", "document.getElementById('map-card')"
    browser.ask(f"{field}.value = 8; {field}.dispatchEvent(new Event('input'))")
    assert f"{EVIL} 4" in browser.ask(f"{card}.textContent")
    assert browser.ask(f"{card}.querySelectorAll('.picture').length") == 1
    browser.ask(f"{field}.value = 9; {field}.dispatchEvent(new Event('input'))")
    assert browser.ask(f"{card}.hidden && document.getElementById('map-missing').textContent.length > 0")
    assert browser.ask("window.stolen === undefined") and not troubles(browser.events)


def test_troubles_are_noticed(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<img src='http://nowhere.invalid/x.png'><script>console.error('a'); missing()</script>")
    browser.open(page, *DESKTOP)
    found = " ".join(troubles(browser.events))
    assert "nowhere.invalid" in found and '"value": "a"' in found and "ReferenceError" in found
