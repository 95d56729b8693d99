"""Panels in a real browser: JupyterLab in headless Chromium, notebooks run in full, every control used.

`python -m pytest tests/test_browser.py -s` also prints how quickly each panel answers. Without playwright or Chromium
the tests are skipped, in CI they fail. Every wait is for something in the page, never for JupyterLab's run-all promise.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time

import nbformat
import pytest
from numpy import percentile

pytestmark = pytest.mark.browser
ROOT = pathlib.Path(__file__).parent.parent
PANELS = {"01_gan.ipynb": ["Be the generator", "Arena", "Latent walk", "Fool the critic", "Failure clinic"],
          "00_intro.ipynb": ["Two views", "Fit it by hand", "Four models"],
          "02_vae.ipynb": ["Reparameterise", "Morph", "Latent map", "The beta dial",
                           "Holes: autoencoder beside VAE"],
          "03_gpt.ipynb": ["Load the dice", "Dice loader", "Attention lens", "Surprise", "Break the mask"],
          "03b_gpt_beyond.ipynb": ["Merge machine", "Growing up"],
          "04_diffusion.ipynb": ["Fog", "Rivers", "One guess", "Step race", "Guidance dial", "Draw and finish"]}  # fmt: skip
GAN = "01_gan.ipynb"
# These act on training to come, or on a past that a new game does not have, or the panel is there already; one
# step of top-k from the whole alphabet takes away a face that is too unlikely to be among the bars.
NOTHING_TO_SEE = {"G learning rate", "D learning rate", "D steps per G", "rewind", "Centre", "Start again", "top-k"}
WORDS = ["", "你好", "🙂🙂", "<img src=x onerror=alert(1)>", "$x_t$ & <b>", "to be or not " * 400]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-proxy-server"]  # fmt: skip
PRIVATE = "JUPYTER_CONFIG_DIR JUPYTERLAB_SETTINGS_DIR JUPYTERLAB_WORKSPACES_DIR JUPYTER_RUNTIME_DIR IPYTHONDIR".split()
SETTINGS = {"apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
            "notebook-extension/tracker": {"windowingMode": "none"}}  # fmt: skip

only_gan = pytest.mark.parametrize("opened", [GAN], indirect=True)
READY = """() => { const kernel = jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel;
    return kernel?.connectionStatus == 'connected' && kernel.status == 'idle'; }"""
CELLS = """() => jupyterapp.shell.currentWidget.content.model.toJSON().cells
    .filter(cell => cell.cell_type == 'code' && [].concat(cell.source).join('').trim())
    .map(cell => ({count: cell.execution_count, errors: cell.outputs.filter(o => o.output_type == 'error')
        .map(o => `${o.ename}: ${o.evalue} in: ${[].concat(cell.source).join('').slice(0, 200)}`)}))"""
# Times an answer inside the page: from the reader's event to the first frame whose status has a higher data-seq.
WATCH = """panel => {
    const status = () => panel.querySelector('.aigc-status'), picture = () => panel.querySelector('img').src;
    const seq = +status().dataset.seq, before = picture(), end = performance.now() + 20000;
    let start = null;
    for (const kind of ['keydown', 'click', 'input', 'change'])
        document.addEventListener(kind, () => { start ??= performance.now(); }, {capture: true, once: true});
    window.aigcAnswer = new Promise(resolve => requestAnimationFrame(function look() {
        const now = performance.now(), {seq: latest, state} = status().dataset;
        if (latest == seq && now < end) requestAnimationFrame(look);
        else resolve({ms: now - start, changed: picture() != before, state, text: status().textContent});
    }));
}"""


@pytest.fixture(scope="module")
def chromium():
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not (path and importlib.util.find_spec("playwright")):
        give_up = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        give_up(f"browser tests need {'the Python package playwright' if path else 'Chromium'}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=path, args=FLAGS) as browser:
        yield browser


@contextlib.contextmanager
def jupyterlab(browser, folder, notebook=GAN, kernels_settings=None):
    """A notebook in `folder`, run in a JupyterLab server that neither reads nor changes the user's settings."""
    private, token = folder.parent / "jupyter", secrets.token_hex(8)
    for name, values in (SETTINGS | {"apputils-extension/kernels-settings": kernels_settings or {}}).items():
        file = private / "JUPYTERLAB_SETTINGS_DIR" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {name: str(private / name) for name in PRIVATE} | {"AIGC_BUDGET": "0.1"}
    env |= {"PYTHONPATH": str(ROOT)} | ({} if env.get("AIGC_DATA_DIR") else {"AIGC_OFFLINE": "1"})
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser",
               f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
               f"--ServerApp.root_dir={folder}"]  # fmt: skip
    with open(private / "log.txt", "w") as log, subprocess.Popen(command, env=env, stdout=log, stderr=log) as server:
        try:
            while "is running at" not in (text := (private / "log.txt").read_text()):
                assert server.poll() is None, text[-2000:]
                time.sleep(0.5)
            workspace = f"http://127.0.0.1:{port}/lab/workspaces/w{secrets.token_hex(3)}"
            with browser.new_page(viewport={"width": 1400, "height": 1000}) as page:
                yield Lab(page, f"{workspace}/tree/{notebook}?reset&token={token}")
        finally:
            server.terminate()  # it ends its kernels too


class Lab:
    """A notebook run in JupyterLab: the page, what went wrong in it, and how quickly its panels answered."""

    def __init__(self, page, address, timeout=600):
        self.page, self.problems, self.latency, self.arena_rate = page, [], {}, "not measured"
        page.on("pageerror", lambda error: self.problems.append(f"page error: {error}"))
        page.goto(address, wait_until="commit")
        page.wait_for_selector("#jupyterlab-splash", state="detached", timeout=90_000)
        page.wait_for_selector(".jp-Notebook", timeout=90_000)
        page.wait_for_function(READY, timeout=90_000)  # what is sent to a kernel that still starts may be lost
        self.command("notebook:clear-all-cell-outputs")  # a stored execution count must not look like a fresh one
        page.wait_for_function(f"() => ({CELLS})().every(cell => cell.count === null)")
        start, cells = time.time(), [{"count": None, "errors": []}]
        self.command("notebook:run-all-cells")
        while any(not c["count"] for c in cells) and not self.problems and time.time() - start < timeout:
            time.sleep(0.5)
            cells = page.evaluate(CELLS)
            self.problems += [error for cell in cells for error in cell["errors"]]
        self.seconds = time.time() - start
        if waiting := sum(not cell["count"] for cell in cells):
            self.problems.append(f"{waiting} of {len(cells)} code cells have not run after {self.seconds:.0f} s")

    def command(self, name):
        self.page.evaluate("name => { jupyterapp.commands.execute(name); }", name)

    def panel(self, title):
        assert self.problems == []
        panel = self.page.locator(".aigc-panel").filter(has=self.page.locator("b", has_text=title))
        panel.scroll_into_view_if_needed()
        settle(panel, 0.5)
        return panel

    def act(self, panel, do):
        """Do something to a panel, wait for its answer, insist on state ok; gives {ms, changed, state, text}."""
        panel.evaluate(WATCH)
        do()
        answer = self.page.evaluate("() => window.aigcAnswer")
        assert answer["ms"] < 19_000, "the panel did not answer"
        assert answer["state"] == "ok", answer["text"]
        return answer

    def press(self, panel, label, key):
        slider = panel.locator(".widget-slider").filter(has=self.page.get_by_text(label, exact=True))
        slider.locator(".noUi-handle").focus()
        return self.act(panel, lambda: self.page.keyboard.press(key))

    def click(self, panel, name):
        return self.act(panel, panel.get_by_role("button", name=name, exact=True).click)


def seq_of(panel):
    return int(panel.locator(".aigc-status").get_attribute("data-seq"))


def round_of(panel):
    return int(re.search(r"round (\d+)", panel.locator(".aigc-status").inner_text().lower()).group(1))


def settle(panel, seconds=1.0, timeout=60):
    """Wait until nothing has been drawn for some seconds; returns the sequence number."""
    end, before = time.time() + timeout, None
    while before != (before := seq_of(panel)):
        assert time.time() < end, f"the panel still draws after {timeout} s"
        time.sleep(seconds)
    return before


@pytest.fixture(scope="module", params=PANELS)
def opened(chromium, tmp_path_factory, request):
    folder = shutil.copytree(ROOT / "notebooks", tmp_path_factory.mktemp("lab") / "notebooks")
    with jupyterlab(chromium, folder, request.param) as lab:
        lab.titles = PANELS[request.param]
        yield lab
    print(f"\n\n{request.param}: all cells in {lab.seconds:.0f} s at AIGC_BUDGET=0.1\n{'panel':<20} moves  p50 ms  p95 ms")
    for title, ms in ((title, ms) for title, ms in lab.latency.items() if ms):
        print(f"{title:<20}{len(ms):>6}{percentile(ms, 50):>8.0f}{percentile(ms, 95):>8.0f}")
    print(f"Arena, Run: {lab.arena_rate}")


@pytest.fixture
def lab(opened, request, tmp_path):
    """The notebook after all cells; a test that fails leaves a screenshot and the list of problems in its tmp_path."""
    failed_before = request.session.testsfailed
    yield opened
    if request.session.testsfailed > failed_before:
        opened.page.screenshot(path=tmp_path / "page.png")
        (tmp_path / "problems.txt").write_text("\n".join(opened.problems))


def test_the_notebook_runs_and_shows_its_panels(lab):
    assert lab.problems == []
    lab.page.wait_for_function("() => !/Loading widget|Error displaying widget/.test(document.body.innerText)")
    assert lab.page.locator(".aigc-panel b").all_inner_texts() == lab.titles
    assert lab.page.locator(".aigc-panel .aigc-status[data-state=ok]").count() == len(lab.titles)


def answers_of(lab, title):
    """Move every control of a panel; gives {label: answers} and checks what must hold for each panel."""
    panel, answers, moves = lab.panel(title), {}, []
    seq = seq_of(panel)
    for slider in panel.locator(".widget-slider").all():
        label, handle = slider.locator(".widget-label").inner_text(), slider.locator(".noUi-handle")
        at_the_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
        there, back = ("ArrowLeft", "ArrowRight") if at_the_end else ("ArrowRight", "ArrowLeft")
        answers[label] = [lab.press(panel, label, key) for key in (there, back, there, back)]
        moves += [answer["ms"] for answer in answers[label]]
    for area in panel.locator("textarea").all():
        area.press("Control+End")
        answers["text"] = [lab.act(panel, lambda k=key, a=area: a.press(k)) for key in ("e", "Backspace", "t")]
        moves += [answer["ms"] for answer in answers["text"]]
    lab.latency[title] = moves
    for menu in panel.locator(".widget-dropdown").all():
        label, select = menu.locator(".widget-label").inner_text(), menu.locator("select")
        first, size = select.evaluate("menu => [menu.selectedIndex, menu.options.length]")
        order = [k for k in range(size) if k != first] + [first]
        answers[label] = [lab.act(panel, lambda k=k, s=select: s.select_option(index=k)) for k in order]
    for box in panel.locator(".widget-checkbox input").all():
        answers |= {"check box": [lab.act(panel, box.click) for _ in range(2)]}
    for name in panel.locator(".widget-button:visible").all_inner_texts():
        answers |= {name: [lab.click(panel, name)]} if name not in ("Run", "Pause") else {}
    assert settle(panel) - seq == sum(map(len, answers.values())), f"{title}: a panel draws once for each event"
    assert all(panel.locator("img").evaluate_all("images => images.map(image => image.alt.trim())")), title
    assert not moves or percentile(moves, 95) < 1000, f"{title} is slow: {moves}"
    return answers


def test_every_control_of_every_panel_answers_with_one_drawing(lab):
    stuck = [(title, label) for title in lab.titles for label, tried in answers_of(lab, title).items()
             if label not in NOTHING_TO_SEE and not any(answer["changed"] for answer in tried)]  # fmt: skip
    assert stuck == [], f"no new picture after {stuck}"
    assert len(lab.latency) == len(lab.titles) and lab.problems == []


# All that a reader moves in a panel, in the order of the page: sliders, their numbers, lists, boxes, buttons, text fields.
CONTROLS = """panel => [...panel.querySelectorAll('.noUi-handle, .widget-readout, select, input, button, textarea')]
    .filter(control => control.offsetParent !== null)"""
# Pictures and controls that stick out of the output area that shows them (it would cut them off or want scrolling).
CUT_OFF = """() => [...document.querySelectorAll('.jp-OutputArea-output')].flatMap(area => {
    const {left, right} = area.getBoundingClientRect();
    return [...area.querySelectorAll('img, svg, select, button, textarea, .widget-slider, .aigc-status')]
        .map(part => [part, part.getBoundingClientRect()])
        .filter(([part, box]) => box.width && (box.left < left - 1 || box.right > right + 1))
        .map(([part, box]) => `${part.tagName} ${part.alt || part.textContent}`.slice(0, 60)
            + ` from ${box.left - left | 0} to ${box.right - left | 0} in ${right - left | 0}`); })"""
# JupyterLab gives the pictures of outputs no alt text; what it is given must hold one, as other readers show it.
MUTE = """() => [...document.querySelectorAll('.aigc-panel img')].filter(picture => !picture.alt.trim())
    .map(picture => picture.outerHTML.slice(0, 80)).concat(
    jupyterapp.shell.currentWidget.content.model.toJSON().cells.flatMap(cell => cell.outputs ?? [])
    .filter(({data, metadata}) => data?.['image/png'] && !(metadata?.['image/png']?.alt ?? '').trim())
    .map(output => `a picture without words: ${output.data['text/plain']}`.slice(0, 80)))"""


def test_the_keyboard_reaches_every_control_in_the_order_of_the_page(lab):
    for title in lab.titles:
        panel = lab.panel(title)
        count = panel.evaluate(f"panel => ({CONTROLS})(panel).length")
        panel.evaluate(f"panel => ({CONTROLS})(panel)[0].focus()")
        reached = [0]
        for _ in range(count - 1):
            lab.page.keyboard.press("Tab")
            reached.append(panel.evaluate(f"panel => ({CONTROLS})(panel).indexOf(document.activeElement)"))
        assert reached == list(range(count)), f"{title}: Tab goes to the controls {reached} of {count}"


@pytest.mark.parametrize("zoom", [1.0, 1.5])
@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_nothing_is_cut_off_and_every_picture_has_words(lab, theme, zoom):
    """Zoom in a browser makes the page narrower in CSS pixels, which is what counts for the layout."""
    before = lab.page.viewport_size
    lab.page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
    lab.page.set_viewport_size({side: round(pixels / zoom) for side, pixels in before.items()})
    try:
        lab.page.wait_for_function("name => document.body.dataset.jpThemeName == name", arg=theme)
        time.sleep(1)
        assert lab.page.evaluate(CUT_OFF) == []
        assert lab.page.evaluate(MUTE) == [] and lab.problems == []
    finally:
        lab.page.set_viewport_size(before)


@only_gan
def test_the_arena_runs_pauses_steps_and_rewinds(lab):
    panel, pictures = lab.panel("Arena"), set()
    lab.click(panel, "New game")
    lab.click(panel, "Run")
    first, seq, start = round_of(panel), seq_of(panel), time.time()
    while time.time() - start < 3:
        pictures.add(panel.locator("img").get_attribute("src"))
        time.sleep(0.05)
    rate = (seq_of(panel) - seq) / (time.time() - start)
    panel.get_by_role("button", name="Pause", exact=True).click()
    settle(panel, 2)
    lab.arena_rate = f"{rate:.1f} chunks a second"
    assert (paused := round_of(panel)) > first and len(pictures) >= 4 and rate > 2
    assert lab.click(panel, "Step D")["changed"] and lab.click(panel, "Step G")["changed"]
    assert all(lab.press(panel, "rewind", "ArrowLeft")["changed"] for _ in range(4)) and round_of(panel) < paused
    assert lab.click(panel, "New game")["changed"] and round_of(panel) == 0 and lab.problems == []


@only_gan
@pytest.mark.parametrize("seed", [0, 1])
def test_the_clinic_runs_to_its_end_and_replays(lab, seed):
    panel = lab.panel("Failure clinic")
    if seed:
        lab.press(panel, "seed", "ArrowRight")
    lab.click(panel, "Run")
    settle(panel, 2, timeout=120)
    last = round_of(panel)
    assert f"of {last}." in panel.locator(".aigc-status").inner_text()
    assert all(lab.press(panel, "replay", "ArrowLeft")["changed"] for _ in range(3)) and round_of(panel) < last


@pytest.mark.parametrize("opened", ["02_vae.ipynb"], indirect=True)
def test_the_beta_dial_trains_a_toy_and_pauses(lab):
    panel = lab.panel("The beta dial")
    lab.act(panel, lambda: panel.locator("select").select_option(label="toy"))
    lab.click(panel, "Run")
    time.sleep(2)
    panel.get_by_role("button", name="Pause", exact=True).click()
    settle(panel)
    trained = int(re.search(r"step (\d+)", panel.locator(".aigc-status").inner_text()).group(1))
    assert trained >= 30 and trained % 15 == 0 and lab.problems == []


@pytest.mark.parametrize("opened", ["03_gpt.ipynb", "03b_gpt_beyond.ipynb"], indirect=True)
def test_a_readers_words_are_drawn_and_never_executed(lab):
    fields = 0
    for title in lab.titles:
        panel = lab.panel(title)
        for area in panel.locator("textarea").all():
            fields += 1
            for words in ["to be", *WORDS]:
                lab.act(panel, lambda area=area, words=words: area.fill(words))
            assert panel.locator("img").count() == 1, f"{title}: the reader's HTML became an element"
    assert fields == {"Load the dice": 4, "Merge machine": 2}[lab.titles[0]] and lab.problems == []


@pytest.mark.parametrize("opened", ["03_gpt.ipynb"], indirect=True)
def test_the_mask_panel_trains_and_pauses(lab):
    panel = lab.panel("Break the mask")
    lab.click(panel, "Start again")
    lab.click(panel, "Run")
    time.sleep(3)
    panel.get_by_role("button", name="Pause", exact=True).click()
    settle(panel)
    loss, honest = map(float, re.findall(r"loss (\d+\.\d+)", panel.locator(".aigc-status").inner_text()))
    assert 0 < loss < 4.5 and 0 < honest < 4.5 and lab.problems == []


@pytest.mark.parametrize("subshells", ["perCommTarget", "disabled"])
def test_a_slider_moved_while_a_cell_is_busy(chromium, tmp_path, subshells):
    """JupyterLab's two ways of talking to widgets: at once, in a second thread, or when the cell has ended."""
    notebook, folder = nbformat.read(ROOT / "notebooks" / GAN, as_version=4), tmp_path / "notebooks"
    folder.mkdir()
    first_panel = next(k for k, cell in enumerate(notebook.cells) if ".show()" in cell.source)
    notebook.cells = notebook.cells[: first_panel + 1] + [nbformat.v4.new_code_cell("import time; time.sleep(5)")]
    nbformat.write(notebook, folder / GAN)
    with jupyterlab(chromium, folder, kernels_settings={"commsOverSubshells": subshells}) as lab:
        panel = lab.panel(PANELS[GAN][0])
        assert lab.press(panel, "shift x", "ArrowRight")["changed"]
        lab.page.locator(".jp-CodeCell").last.click()
        lab.command("notebook:run-cell")
        time.sleep(0.5)
        answer = lab.press(panel, "shift x", "ArrowRight")
        print(f"\ncommsOverSubshells {subshells}: a slider moved in a busy cell answers after {answer['ms']:.0f} ms")
        assert answer["changed"] and lab.problems == []
        assert (answer["ms"] > 2500) == (subshells == "disabled")
