"""Panels in a real browser: JupyterLab in headless Chromium, notebooks run in full, every control used.

`python -m pytest tests/test_browser.py -s` also prints how quickly each panel answers. Without playwright or Chromium
the tests are skipped, in CI they fail. Every wait is for something in the page, never for JupyterLab's run-all promise.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import pathlib
import secrets
import shutil
import socket
import subprocess
import sys
import time

import nbformat
import pytest
from numpy import percentile

from tests.panel_checks import slowness
from tests.seeded_faults import chapters

pytestmark = pytest.mark.browser
ROOT = pathlib.Path(__file__).parent.parent
CHAPTERS = chapters()  # notebook -> module
# Controls and buttons after which the picture may be the same: they act on training to come, or on a past that a new
# game does not have, or the panel is there already. A chapter may name its own, a control or (panel, control):
# NOTHING_TO_SEE in its test file.
NOTHING_TO_SEE = {"G learning rate", "D learning rate", "D steps per G", "rewind", "Centre", "Start again", "top-k"}
# A panel's cell is run again ten times; where the panel takes long to make, at least three times, in so many seconds.
RERUNS, LEAST, SECONDS = 10, 3, 10 if os.environ.get("CI") == "true" else 30
WORDS = ["", "你好", "🙂🙂", "<img src=x onerror=alert(1)>", "$x_t$ & <b>", "to be or not " * 400]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-proxy-server"]  # fmt: skip
PRIVATE = "JUPYTER_CONFIG_DIR JUPYTERLAB_SETTINGS_DIR JUPYTERLAB_WORKSPACES_DIR JUPYTER_RUNTIME_DIR IPYTHONDIR".split()
SETTINGS = {"apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
            "notebook-extension/tracker": {"windowingMode": "none"}}  # fmt: skip

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
def jupyterlab(browser, folder, notebook, kernels_settings=None):
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

    def __init__(self, page, address, timeout=1200):
        self.page, self.problems, self.latency, self.rates = page, [], {}, {}
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

    def titles(self):
        """The headings of the panels, in the order of the page."""
        return self.page.locator(".aigc-panel .aigc-title").all_inner_texts()

    def panels(self):
        """[(title, panel)] in the order of the page, each scrolled into view and at rest when it is asked for."""
        for k, title in enumerate(self.titles()):
            assert self.problems == []
            panel = self.page.locator(".aigc-panel").nth(k)
            panel.scroll_into_view_if_needed()
            settle(panel, 0.5)
            yield title, panel

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


def settle(panel, seconds=1.0, timeout=60):
    """Wait until nothing has been drawn for some seconds; returns the sequence number."""
    end, before = time.time() + timeout, None
    while before != (before := seq_of(panel)):
        assert time.time() < end, f"the panel still draws after {timeout} s"
        time.sleep(seconds)
    return before


# Side by side (`-n 2 --dist loadgroup`), a notebook's tests stay together: it is opened and run once.
EACH_NOTEBOOK = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in CHAPTERS]


@pytest.fixture(scope="module", params=EACH_NOTEBOOK)
def opened(chromium, tmp_path_factory, request):
    folder = shutil.copytree(ROOT / "notebooks", tmp_path_factory.mktemp("lab") / "notebooks")
    with jupyterlab(chromium, folder, request.param) as lab:
        lab.notebook = request.param
        yield lab
    print(f"\n\n{request.param}: all cells in {lab.seconds:.0f} s at AIGC_BUDGET=0.1\n{'panel':<30} moves  p50 ms  p95 ms")
    for title, ms in ((title, ms) for title, ms in lab.latency.items() if ms):
        print(f"{title:<30}{len(ms):>6}{percentile(ms, 50):>8.0f}{percentile(ms, 95):>8.0f}")
    for title, rate in lab.rates.items():
        print(f"{title}, Run: {rate:.1f} chunks a second")


@pytest.fixture
def lab(opened, request, tmp_path):
    """The notebook after all cells; a test that fails leaves a screenshot and the list of problems in its tmp_path."""
    failed_before = request.session.testsfailed
    yield opened
    if request.session.testsfailed > failed_before:
        opened.page.screenshot(path=tmp_path / "page.png")
        (tmp_path / "problems.txt").write_text("\n".join(opened.problems))


def stored_panels(notebook):
    """The texts that stand for the panels in a stored notebook: each begins with the panel's title."""
    found = []
    for cell in nbformat.read(ROOT / "notebooks" / notebook, as_version=4).cells:
        if "panel" in cell.metadata.get("tags", []):
            data = [output.data for output in cell.get("outputs", []) if output.output_type == "display_data"]
            found += [each["text/plain"] for each in data if "image/png" in each]
    return found


def test_the_notebook_runs_and_shows_its_panels(lab):
    assert lab.problems == []
    lab.page.wait_for_function("() => !/Loading widget|Error displaying widget/.test(document.body.innerText)")
    stored = stored_panels(lab.notebook)
    titles = lab.titles()
    assert stored and len(titles) == len(stored)
    assert all(text.startswith(f"{title}. ") for title, text in zip(titles, stored, strict=True))
    assert lab.page.locator(".aigc-panel .aigc-status[data-state=ok]").count() == len(titles)


def answers_of(lab, title, panel):
    """Move every control of a panel; gives {label: answers} and checks what must hold for each panel."""
    answers, moves = {}, []
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
        clicks = [lab.act(panel, box.click) for _ in range(2)]
        answers["check box"] = answers.get("check box", []) + clicks
    for name in panel.locator(".widget-button:visible").all_inner_texts():
        answers |= {name: [lab.click(panel, name)]} if name not in ("Run", "Pause") else {}
    assert settle(panel) - seq == sum(map(len, answers.values())), f"{title}: a panel draws once for each event"
    assert all(panel.locator("img").evaluate_all("images => images.map(image => image.alt.trim())")), title
    dear = percentile(moves, 95) if moves else 0.0
    assert dear < 1000 or dear < 1000 * slowness(), f"{title} is slow: {moves}"
    return answers


def test_every_control_of_every_panel_answers_with_one_drawing(lab):
    chapter = importlib.import_module(f"tests.chapters.test_{CHAPTERS[lab.notebook]}")
    quiet = NOTHING_TO_SEE | getattr(chapter, "NOTHING_TO_SEE", set())
    stuck = []
    for title, panel in lab.panels():
        answers = answers_of(lab, title, panel)
        stuck += [(title, label) for label, tried in answers.items()
                  if not quiet & {label, (title, label)} and not any(answer["changed"] for answer in tried)]  # fmt: skip
    assert stuck == [], f"no new picture after {stuck}"
    assert lab.problems == []


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
    for title, panel in lab.panels():
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


def test_run_plays_and_pause_stops(lab):
    """Every panel with a Run button: it draws again and again, and after Pause nothing more."""
    for title, panel in lab.panels():
        if not panel.get_by_role("button", name="Run", exact=True).count():
            continue
        pictures, seq, start = set(), seq_of(panel), time.time()
        lab.click(panel, "Run")
        while time.time() - start < 3:
            pictures.add(panel.locator("img").get_attribute("src"))
            time.sleep(0.05)
        lab.rates[title] = (seq_of(panel) - seq) / (time.time() - start)
        panel.get_by_role("button", name="Pause", exact=True).click()
        settle(panel, 2)
        assert lab.rates[title] > 1 and len(pictures) >= 3, f"{title}: {lab.rates[title]:.1f} chunks a second"
        assert panel.locator(".aigc-status[data-state=ok]").count() == 1, title
    assert lab.problems == []


def test_a_readers_words_are_drawn_and_never_executed(lab):
    for title, panel in lab.panels():
        for area in panel.locator("textarea").all():
            for words in ["to be", *WORDS]:
                lab.act(panel, lambda area=area, words=words: area.fill(words))
        assert panel.locator("img").count() == 1, f"{title}: the reader's HTML became an element"
    assert lab.problems == []


# ---------------------------------------------------------------- a panel's cell run again while the panel plays

CELL_OF = "panel => jupyterapp.shell.currentWidget.content.widgets.findIndex(cell => cell.node.contains(panel))"
CELL = """index => { const cell = jupyterapp.shell.currentWidget.content.widgets[index].model.toJSON();
    return {count: cell.execution_count, errors: cell.outputs.filter(o => o.output_type == 'error').map(o => o.evalue),
        pictures: cell.outputs.filter(o => o.data?.['image/png']).map(o => o.data['image/png'])}; }"""
# Starts the cell of that index, without waiting for its end.
RUN_CELL = """index => { jupyterapp.shell.currentWidget.content.activeCellIndex = index;
    jupyterapp.commands.execute('notebook:run-cell'); }"""
# Moves the control that has the focus, if it is still in a panel: keys that reach the page itself fold its sections.
MOVE = """turn => { const control = document.activeElement;
    if (!control?.closest?.('.aigc-panel')) return;
    if (control.tagName == 'SELECT') {
        control.selectedIndex = turn % control.options.length;
        control.dispatchEvent(new Event('change', {bubbles: true}));
    } else if (control.tagName == 'TEXTAREA') {
        control.value += 'a';
        control.dispatchEvent(new Event('input', {bubbles: true}));
    } else control.dispatchEvent(new KeyboardEvent('keydown', {key: ['ArrowRight', 'ArrowLeft'][turn % 2]})); }"""
NUM_WIDGETS = """async () => { const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    const all = "getattr(__import__('ipywidgets').widgets.widget, '_instances', None) or __import__('ipywidgets').Widget.widgets";
    const request = {code: '', silent: true, user_expressions: {n: `len(${all})`}};
    const reply = await kernel.requestExecute(request).done;
    return +reply.content.user_expressions.n.data['text/plain']; }"""


def play(panel):
    """Start what a panel does: Run, where it has one; else the first control gets the focus, for keys to move it."""
    run = panel.get_by_role("button", name="Run", exact=True)
    if run.count():
        run.click()
    else:
        panel.evaluate(f"panel => ({CONTROLS})(panel)[0].focus()")


def test_a_panels_cell_run_again_while_it_plays(lab):
    for k, title in enumerate(lab.titles()):
        panel = lab.page.locator(".aigc-panel").nth(k)
        panel.scroll_into_view_if_needed()
        index = panel.evaluate(CELL_OF)
        before = lab.page.evaluate(CELL, index)
        widgets = lab.page.evaluate(NUM_WIDGETS)
        began = time.time()
        for turn in range(RERUNS):
            if turn >= LEAST and time.time() - began > SECONDS:
                break
            place = f"{title}, run again {turn + 1}"
            seq, moves, end = seq_of(panel), 0, time.time() + 20
            play(panel)
            while moves < 6 or seq_of(panel) == seq:
                assert time.time() < end, f"{place}: the panel does not move"
                lab.page.evaluate(MOVE, moves)
                moves += 1
                time.sleep(0.05)
            count = lab.page.evaluate(CELL, index)["count"]
            lab.page.evaluate(RUN_CELL, index)
            end = time.time() + 60
            while (after := lab.page.evaluate(CELL, index))["count"] in (None, count):
                assert time.time() < end, f"{place}: the cell did not end; does the kernel live?"
                lab.page.evaluate(MOVE, int(20 * time.time()))
            assert after["errors"] == [] and after["pictures"] == before["pictures"], f"{place}: another storyboard"
            panel.locator(".aigc-status[data-state=ok]").wait_for()
            assert lab.page.evaluate(NUM_WIDGETS) == widgets, f"{place}: the old panel's widgets are still there"
        settle(panel, 1)
    assert lab.problems == []


# ---------------------------------------------------------------- a busy kernel

BUSY = """
from aigc_helpers import plotting
from aigc_helpers.panels import Panel, slider

def draw(x):
    fig, ax = plotting.figure(3, 2)
    ax.plot([0, x], [0, 1])
    return fig, f"x is {x}"

Panel("A line", draw, {"x": slider("x", 0.0, 1.0, 0.5)}, alt="A line.").show()
"""


@pytest.mark.parametrize("subshells", ["perCommTarget", "disabled"])
def test_a_slider_moved_while_a_cell_is_busy(chromium, tmp_path, subshells):
    """JupyterLab's two ways of talking to widgets: at once, in a second thread, or when the cell has ended."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    cells = [nbformat.v4.new_code_cell(source) for source in (BUSY, "import time; time.sleep(5)")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}  # else JupyterLab asks which
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "busy.ipynb")
    with jupyterlab(chromium, folder, "busy.ipynb", kernels_settings={"commsOverSubshells": subshells}) as lab:
        ((_, panel),) = lab.panels()
        assert lab.press(panel, "x", "ArrowRight")["changed"]
        lab.page.locator(".jp-CodeCell").last.click()
        lab.command("notebook:run-cell")
        time.sleep(0.5)
        answer = lab.press(panel, "x", "ArrowRight")
        print(f"\ncommsOverSubshells {subshells}: a slider moved in a busy cell answers after {answer['ms']:.0f} ms")
        assert answer["changed"] and lab.problems == []
        assert (answer["ms"] > 2500) == (subshells == "disabled")


# ---------------------------------------------------------------- the drawing pad of 04


PAD_PAGE = """
from aigc_helpers import panels
from aigc_helpers.data import load_digits
from aigc_helpers.metrics import load_features
from aigc_helpers.weights import load_model

digits = load_digits("test", n=40, verbose=False)
vae = load_model("vae")
panels.diffusion.draw_and_finish(load_model("diffusion"), load_features(), vae, digits).show()
"""


def test_a_mouse_draws_a_one_and_the_model_finishes_it(chromium, tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    cells = [nbformat.v4.new_code_cell(PAD_PAGE)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "pad.ipynb")
    with jupyterlab(chromium, folder, "pad.ipynb") as lab:
        assert lab.problems == []
        panel = lab.page.locator(".aigc-panel").first
        lab.click(panel, "Clear")
        canvas = panel.locator("canvas.aigc-pad")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()

        def stroke():
            mouse = lab.page.mouse
            mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.2 * box["height"])
            mouse.down()
            for k in range(1, 11):
                down = box["y"] + (0.2 + 0.06 * k) * box["height"]
                mouse.move(box["x"] + 0.5 * box["width"], down)
            mouse.up()

        seq = seq_of(panel)
        began = time.perf_counter()
        stroke()
        while seq_of(panel) == seq:
            assert time.perf_counter() - began < 20, "the stroke did not arrive"
            time.sleep(0.02)
        print(f"\nstroke drawn and answered in {1000 * (time.perf_counter() - began):.0f} ms")
        assert "Read as 1" in panel.locator(".aigc-status").inner_text()
        answer = lab.click(panel, "Finish")
        print(f"Finish in {answer['ms']:.0f} ms")
        assert answer["changed"] and "Six results as a 1" in answer["text"]
        assert lab.problems == []


# ---------------------------------------------------------------- the game of 06


def test_a_round_of_the_game_is_played_with_the_mouse_and_one_with_the_keyboard(chromium, tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    game = "from aigc_helpers import panels\npanels.side_by_side.spot_the_fake().show()"
    cells = [nbformat.v4.new_code_cell(game)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "game.ipynb")
    with jupyterlab(chromium, folder, "game.ipynb") as lab:
        assert lab.problems == []
        panel = lab.page.locator(".aigc-panel").first
        assert "1 marked" in lab.click(panel, "3")["text"]
        assert "2 marked" in lab.click(panel, "10")["text"]
        assert "1 marked" in lab.click(panel, "3")["text"]
        checked = lab.click(panel, "Check")
        assert checked["changed"] and "of 10 right" in checked["text"]
        assert lab.click(panel, "4")["text"] == checked["text"]
        assert "Round 2: 0 marked" in lab.click(panel, "Next ten")["text"]

        def press(key):
            return lab.act(panel, lambda: lab.page.keyboard.press(key))["text"]

        panel.get_by_role("button", name="1", exact=True).focus()
        assert "1 marked" in press("Space")
        lab.page.keyboard.press("Tab")
        assert "2 marked" in press("Enter")
        for _ in range(9):
            lab.page.keyboard.press("Tab")
        assert "of 20 right" in press("Enter")
        assert lab.problems == []
