"""Panels in a real browser: JupyterLab in headless Chromium, one notebook run in full, every control used.

`python -m pytest tests/test_browser.py -s` also prints how quickly each panel answers. Without playwright or Chromium
the tests are skipped, except in CI, where they fail. Every wait is for something seen in the page, never for a promise
of JupyterLab's (that of run-all may not resolve), and sliders are moved by keyboard, which works at any window size.
"""

import contextlib
import json
import os
import pathlib
import re
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest

pytestmark = pytest.mark.browser
ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOK = "01_gan.ipynb"
PANELS = ["Be the generator", "Arena", "Latent walk", "Fool the critic", "Failure clinic"]
# These act on what comes next (training, a game's later course) or on a past that does not exist yet.
NOTHING_TO_SEE = {"G learning rate", "D learning rate", "D steps per G", "rewind", "replay"}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-proxy-server"]  # fmt: skip
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}

CELLS = """() => jupyterapp.shell.currentWidget.content.model.toJSON().cells
    .filter(cell => cell.cell_type == 'code' && [].concat(cell.source).join('').trim())
    .map(cell => ({count: cell.execution_count, errors: cell.outputs.filter(o => o.output_type == 'error')
        .map(o => `${o.ename}: ${o.evalue} in: ${[].concat(cell.source).join('').slice(0, 200)}`)}))"""

READY = """() => {
    const session = jupyterapp.shell.currentWidget?.sessionContext, kernel = session?.session?.kernel;
    return session?.isReady && kernel?.connectionStatus == 'connected' && kernel.status == 'idle';
}"""

# Times an answer inside the page: from the reader's event to the first frame whose status has a higher data-seq.
WATCH = """panel => {
    const status = () => panel.querySelector('.aigc-status'), picture = () => panel.querySelector('img').src;
    const seq = +status().dataset.seq, before = picture();
    let start = null;
    for (const kind of ['keydown', 'click', 'change'])
        document.addEventListener(kind, () => { start ??= performance.now(); }, {capture: true, once: true});
    window.aigcAnswer = new Promise(resolve => {
        const end = performance.now() + 20000;
        const look = now => {
            if (+status().dataset.seq > seq)
                resolve({ms: performance.now() - start, changed: picture() != before,
                         state: status().dataset.state, text: status().textContent});
            else if (now > end) resolve(null);
            else requestAnimationFrame(look);
        };
        requestAnimationFrame(look);
    });
}"""

# Counts for some seconds how often the status and the picture change.
COUNT = """(panel, seconds) => new Promise(resolve => {
    const seq = () => +panel.querySelector('.aigc-status').dataset.seq, pictures = new Set(), first = seq();
    const start = performance.now();
    const look = now => {
        pictures.add(panel.querySelector('img').src);
        if (now - start < 1000 * seconds) requestAnimationFrame(look);
        else resolve({redraws: seq() - first, pictures: pictures.size, seconds: (now - start) / 1000});
    };
    requestAnimationFrame(look);
})"""


# ---- the server and the page


@pytest.fixture(scope="module")
def chromium():
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        sync_playwright = None
    if not (path and sync_playwright):
        missing = "the Python package playwright" if sync_playwright is None else "Chromium"
        give_up = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        give_up(f"browser tests need {missing}, which is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@contextlib.contextmanager
def jupyterlab(folder, settings):
    """A JupyterLab server on `folder` that reads and leaves no setting of the user's; gives its address and token."""
    private, token = folder.parent / "jupyter", secrets.token_hex(8)
    for name, values in settings.items():
        file = private / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTERLAB_SETTINGS_DIR": "settings", "IPYTHONDIR": "ipython",
               "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "JUPYTER_RUNTIME_DIR": "runtime"}  # fmt: skip
    env = os.environ | {name: str(private / value) for name, value in folders.items()} | {"AIGC_BUDGET": "0.1"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    if not env.get("AIGC_DATA_DIR"):
        env["AIGC_OFFLINE"] = "1"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser",
               f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
               f"--ServerApp.root_dir={folder}"]  # fmt: skip
    address, direct = f"http://127.0.0.1:{port}", urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with open(private / "log.txt", "w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        try:
            for _ in range(240):
                with contextlib.suppress(OSError):
                    direct.open(f"{address}/api?token={token}", timeout=3).read()
                    break
                assert server.poll() is None, (private / "log.txt").read_text()[-2000:]
                time.sleep(0.5)
            yield address, token
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


class Lab:
    """An open notebook: the page, what went wrong in it, and how quickly its panels answered."""

    def __init__(self, browser, address, token, name):
        self.page = browser.new_page(viewport={"width": 1400, "height": 1000})
        self.problems, self.latency, self.chunks = [], {}, None
        self.page.on("pageerror", lambda error: self.problems.append(f"page error: {error}"))
        workspace = f"{address}/lab/workspaces/w{secrets.token_hex(3)}"
        self.page.goto(f"{workspace}/tree/{name}?reset&token={token}", wait_until="commit")
        self.page.wait_for_selector(".jp-Notebook", timeout=90_000)
        self.page.wait_for_selector("#jupyterlab-splash", state="detached", timeout=60_000)
        self.page.wait_for_function(READY, timeout=90_000)
        self.command("notebook:clear-all-cell-outputs")  # a stored execution count must not look like a fresh one
        self.page.wait_for_function(f"() => ({CELLS})().every(cell => cell.count === null)")

    def command(self, name):
        self.page.evaluate("name => { jupyterapp.commands.execute(name); }", name)

    def run_all(self, timeout=600):
        """Run all cells, wait for an execution count on each; collects errors and the seconds it took."""
        start, cells = time.time(), []
        self.command("notebook:run-all-cells")
        while time.time() - start < timeout:
            cells = self.page.evaluate(CELLS)
            if all(cell["count"] for cell in cells) or any(cell["errors"] for cell in cells):
                break
            time.sleep(0.5)
        self.seconds = time.time() - start
        self.problems += [error for cell in cells for error in cell["errors"]]
        pending = sum(cell["count"] is None for cell in cells)
        if pending:
            self.problems.append(f"{pending} of {len(cells)} code cells did not run in {self.seconds:.0f} s")
        with contextlib.suppress(Exception):  # still there after 10 s: the test reports it
            self.page.wait_for_function("() => !document.body.innerText.includes('Loading widget')", timeout=10_000)
        return self

    def panel(self, title):
        panel = self.page.locator(".aigc-panel").filter(has=self.page.locator("b", has_text=title))
        panel.scroll_into_view_if_needed()
        return panel

    def act(self, panel, do, log=None):
        """Do something to a panel, wait for its answer, insist on state ok; the seconds go to the list `log`."""
        panel.evaluate(WATCH)
        do()
        answer = self.page.evaluate("() => window.aigcAnswer")
        assert answer, "the panel did not answer in 20 s"
        assert answer["state"] == "ok", answer["text"]
        if log is not None:
            log.append(answer["ms"])
        return answer

    def press(self, panel, label, key, log=None):
        slider = panel.locator(".widget-slider").filter(has=self.page.locator(".widget-label", has_text=label))
        slider.locator(".noUi-handle").focus()
        return self.act(panel, lambda: self.page.keyboard.press(key), log)

    def click(self, panel, name):
        panel.get_by_role("button", name=name, exact=True).click()


def status(panel):
    """(sequence number, text) of the status line."""
    line = panel.locator(".aigc-status")
    return int(line.get_attribute("data-seq")), line.inner_text()


def round_of(panel):
    return int(re.search(r"[Rr]ound (\d+)", status(panel)[1]).group(1))


def settle(panel, seconds=1.0, timeout=15):
    """Wait until nothing has been drawn for some seconds; returns the sequence number."""
    end = time.time() + timeout
    while time.time() < end:
        before = status(panel)[0]
        time.sleep(seconds)
        if status(panel)[0] == before:
            return before
    pytest.fail(f"still drawing after {timeout} s: {status(panel)}")


@pytest.fixture(scope="module")
def opened(chromium, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab") / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    with jupyterlab(folder, SETTINGS) as (address, token):
        lab = Lab(chromium, address, token, NOTEBOOK).run_all()
        yield lab
        lab.page.close()
    print(f"\n\n{NOTEBOOK}: all cells in {lab.seconds:.0f} s at AIGC_BUDGET=0.1, with the server's start not counted")
    print(f"{'panel':<20}{'moves':>6}{'p50 ms':>8}{'p95 ms':>8}")
    for title, ms in lab.latency.items():
        print(f"{title:<20}{len(ms):>6}{statistics.median(ms):>8.0f}{percentile_95(ms):>8.0f}")
    print(f"Arena, Run: {lab.chunks}")


@pytest.fixture
def lab(opened, request, tmp_path):
    """The open notebook; a test that fails leaves a screenshot and the list of problems in its tmp_path."""
    failed_before = request.session.testsfailed
    yield opened
    if request.session.testsfailed > failed_before:
        opened.page.screenshot(path=tmp_path / "page.png")
        (tmp_path / "problems.txt").write_text("\n".join(opened.problems))
        print(f"screenshot and problems: {tmp_path}")


def percentile_95(values):
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


# ---- the tests; they share one page, in this order


def test_the_notebook_runs_without_an_error_and_shows_its_panels(lab):
    text = lab.page.locator("body").inner_text()
    assert lab.problems == []
    assert "Error displaying widget" not in text and "Loading widget" not in text
    titles = lab.page.locator(".aigc-panel .widget-html b").all_inner_texts()
    assert titles == PANELS


@pytest.mark.parametrize("title", PANELS)
def test_every_control_answers(lab, title):
    panel, log, pictures = lab.panel(title), lab.latency.setdefault(title, []), {}
    for slider in panel.locator(".widget-slider").all():
        label, handle = slider.locator(".widget-label").inner_text(), slider.locator(".noUi-handle")
        at_the_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
        there, back = ("ArrowLeft", "ArrowRight") if at_the_end else ("ArrowRight", "ArrowLeft")
        pictures[label] = [lab.press(panel, label, key, log)["changed"] for key in (there, back, there, back)]
    for menu in panel.locator(".widget-dropdown").all():
        label, select = menu.locator(".widget-label").inner_text(), menu.locator("select")
        first, size = select.evaluate("menu => [menu.selectedIndex, menu.options.length]")
        order = [k for k in range(size) if k != first] + [first]
        pictures[label] = [lab.act(panel, lambda k=k, s=select: s.select_option(index=k))["changed"] for k in order]
    for name in panel.locator(".widget-button:visible").all_inner_texts():
        if name not in ("Run", "Pause"):
            pictures[name] = [lab.act(panel, lambda name=name: lab.click(panel, name))["changed"]]
    stuck = [name for name, changed in pictures.items() if name not in NOTHING_TO_SEE and not any(changed)]
    assert stuck == [], f"no new picture after {stuck}"
    assert all(panel.locator("img").evaluate_all("images => images.map(image => image.alt.trim())"))
    assert percentile_95(log) < 1000
    assert lab.problems == []


def test_the_arena_runs_pauses_steps_and_rewinds(lab):
    panel = lab.panel("Arena")
    lab.act(panel, lambda: lab.click(panel, "New game"))
    lab.act(panel, lambda: lab.click(panel, "Run"))
    first, counted = round_of(panel), panel.evaluate(COUNT, 3)
    rate = counted["redraws"] / counted["seconds"]
    lab.click(panel, "Pause")
    settle(panel)
    lab.chunks = f"{rate:.1f} chunks and {counted['pictures'] / counted['seconds']:.1f} pictures a second"
    paused = round_of(panel)
    assert paused > first and counted["pictures"] >= 4 and rate > 2
    assert lab.act(panel, lambda: lab.click(panel, "Step D"))["changed"]
    assert lab.act(panel, lambda: lab.click(panel, "Step G"))["changed"]
    moved = [lab.press(panel, "rewind", "ArrowLeft")["changed"] for _ in range(4)]
    assert all(moved) and round_of(panel) < paused
    assert lab.act(panel, lambda: lab.click(panel, "New game"))["changed"] and round_of(panel) == 0
    assert lab.problems == []


def test_the_clinic_runs_to_its_end_and_replays(lab):
    panel = lab.panel("Failure clinic")
    lab.act(panel, lambda: lab.click(panel, "Run"))
    settle(panel, seconds=2, timeout=120)
    now, end = map(int, re.search(r"round (\d+) of (\d+)", status(panel)[1]).groups())
    assert now == end
    assert all(lab.press(panel, "replay", "ArrowLeft")["changed"] for _ in range(3))
    assert round_of(panel) < end and lab.problems == []


@pytest.mark.parametrize("subshells", ["perCommTarget", "disabled"])
def test_a_slider_moved_while_a_cell_is_busy(chromium, tmp_path, subshells):
    """JupyterLab's two ways of talking to widgets: at once, in a second thread, or after the cell has ended."""
    notebook, folder = nbformat.read(ROOT / "notebooks" / NOTEBOOK, as_version=4), tmp_path / "notebooks"
    first_panel = next(k for k, cell in enumerate(notebook.cells) if ".show()" in cell.source)
    notebook.cells = notebook.cells[: first_panel + 1] + [nbformat.v4.new_code_cell("import time; time.sleep(4)")]
    folder.mkdir()
    nbformat.write(notebook, folder / NOTEBOOK)
    with jupyterlab(folder, SETTINGS | {"apputils-extension/kernels-settings": {"commsOverSubshells": subshells}}) as at:
        lab = Lab(chromium, *at, NOTEBOOK).run_all()
        panel = lab.panel(PANELS[0])
        assert lab.press(panel, "shift x", "ArrowRight")["changed"]
        lab.page.locator(".jp-CodeCell").last.click()
        lab.command("notebook:run-cell")
        time.sleep(1)
        answer = lab.press(panel, "shift x", "ArrowRight")
        print(f"\ncommsOverSubshells {subshells}: a slider moved in a busy cell answered after {answer['ms']:.0f} ms")
        assert answer["changed"] and lab.problems == []
        assert answer["ms"] < 2000 or subshells == "disabled"
        lab.page.close()
