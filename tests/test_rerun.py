"""A panel's cell is run again while the panel that it replaces still plays: in a real kernel, as JupyterLab does it.

JupyterLab delivers widget messages in a subshell, a thread of their own, and a `Play` widget lives in the page's
model: it goes on ticking while its cell is run again. Each panel of each notebook must give the same storyboard every
time, without an error, in a kernel that lives on, and must free the widgets of the panel that it replaced.
"""

import hashlib
import json
import os
import queue
import time

import pytest
from jupyter_client.manager import KernelManager

import tools
from tests.notebook_cells import ROOT, tags_of
from tests.pages import cells_for_panels

PATHS = tools.paths()
RUNS = 10  # times that each panel's cell is run again ...
# ... or, for a panel that takes long to make, at least so many, and until so many seconds are over. CI has many panels.
ENOUGH = 3, 10 if os.environ.get("CI") == "true" else 30
TICKS_BEFORE = 3  # messages for the live panel before its cell is run again
SECONDS_BETWEEN = 0.05  # two messages
LIMIT = 600  # seconds for a cell

# What the kernel is asked about the panel in the box of that id: what to move (the id of its Play, or else of its
# first control, and the states that a page would send), how many widgets there are, and the errors of all panels.
ASK = """
import ipywidgets as _w, json as _json
def _aigc_all():
    return getattr(_w.widgets.widget, "_instances", None) or _w.Widget.widgets
def _aigc_inside(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from _aigc_inside(child)
def _aigc_states(widget):
    if isinstance(widget, _w.Play):
        return [{"value": k + 1} for k in range(2000)]
    if isinstance(widget, _w.FloatLogSlider):
        return [{"value": widget.base ** power} for power in (widget.min, widget.max, (widget.min + widget.max) / 2)]
    if hasattr(widget, "min") and hasattr(widget, "max"):
        return [{"value": value} for value in (widget.min, widget.max, widget.value)]
    if hasattr(widget, "options"):
        return [{"index": k} for k in range(len(widget.options))]
    if isinstance(widget, _w.Checkbox):
        return [{"value": True}, {"value": False}]
    if isinstance(widget, _w.Textarea):
        return [{"value": "to be"}, {"value": "or not"}]
    return []
def _aigc_ask(box):
    inside = list(_aigc_inside(_aigc_all()[box]))
    inside.sort(key=lambda widget: not isinstance(widget, _w.Play))
    move = next(([w.model_id, _aigc_states(w)] for w in inside if _aigc_states(w)), None)
    return _json.dumps(move)
def _aigc_count():
    values = [getattr(widget, "value", "") for widget in _aigc_all().values() if isinstance(widget, _w.HTML)]
    return _json.dumps([len(_aigc_all()), [value for value in values if 'data-state="error"' in value]])
"""


class Kernel:
    """A kernel with a subshell, as JupyterLab 4.4 and later use it."""

    def __init__(self, cache):
        hidden = ("AIGC_DATA_DIR", "MPLBACKEND")
        env = {name: value for name, value in os.environ.items() if name not in hidden}
        env |= {"AIGC_OFFLINE": "1", "AIGC_BUDGET": "0.1", "PYTHONPATH": str(ROOT), "AIGC_CACHE_DIR": str(cache)}
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=cache, env=env)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)
        request = self.client.session.msg("create_subshell_request", {})
        self.client.control_channel.send(request)
        self.subshell = self.client.control_channel.get_msg(timeout=30)["content"]["subshell_id"]
        self.run(ASK)

    def run(self, source, cell_id=None, expressions=None, meanwhile=None):
        """Run a cell; returns (outputs, values of the expressions). meanwhile() is called again and again."""
        content = {
            "code": source,
            "silent": False,
            "store_history": True,
            "user_expressions": expressions or {},
            "allow_stdin": False,
            "stop_on_error": True,
        }
        request = self.client.session.msg("execute_request", content, metadata={"cellId": cell_id} if cell_id else {})
        self.client.shell_channel.send(request)
        mine, outputs, end = request["header"]["msg_id"], [], time.monotonic() + LIMIT
        while True:
            assert self.manager.is_alive(), "the kernel died"
            assert time.monotonic() < end, f"a cell took more than {LIMIT} s"
            if meanwhile:
                meanwhile()
            try:
                message = self.client.get_iopub_msg(timeout=SECONDS_BETWEEN if meanwhile else 1)
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") != mine:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
            outputs.append((message["msg_type"], message["content"]))
        return outputs, self._answer(mine)

    def _answer(self, mine):
        while True:
            reply = self.client.get_shell_msg(timeout=60)
            if reply["parent_header"].get("msg_id") == mine:
                found = reply["content"].get("user_expressions", {})
                assert all(value["status"] == "ok" for value in found.values()), found
                return {name: json.loads(value["data"]["text/plain"][1:-1]) for name, value in found.items()}

    def send(self, comm, state):
        """What a page sends when a control is moved, or a Play ticks."""
        content = {"comm_id": comm, "data": {"method": "update", "state": state, "buffer_paths": []}}
        message = self.client.session.msg("comm_msg", content)
        message["header"]["subshell_id"] = self.subshell
        self.client.shell_channel.send(message)

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


class Mover:
    """Sends the states of one control, one after the other, as long as it is called."""

    def __init__(self, kernel, comm, states):
        self.kernel = kernel
        self.comm = comm
        self.states = states
        self.sent = 0

    def __call__(self):
        self.kernel.send(self.comm, self.states[self.sent % len(self.states)])
        self.sent += 1


def shown(outputs):
    """(id of the panel's box, SHA-256 of its storyboard) of the panels that a cell displayed."""
    view = "application/vnd.jupyter.widget-view+json"
    data = [content["data"] for kind, content in outputs if kind == "display_data"]
    return [
        (each[view]["model_id"], hashlib.sha256(each["image/png"].encode()).hexdigest())
        for each in data
        if view in each and "image/png" in each
    ]


def errors(outputs):
    return [f"{content['ename']}: {content['evalue']}" for kind, content in outputs if kind == "error"]


def storyboards(outputs):
    return [storyboard for _, storyboard in shown(outputs)]


def run_again(kernel, cell, outputs):
    """Run a cell that showed panels again and again, while the panels that it replaces are moved."""
    wanted = storyboards(outputs)
    count = None
    least, seconds = ENOUGH
    began = time.monotonic()
    for turn in range(RUNS):
        if turn >= least and time.monotonic() - began > seconds:
            break
        (box, _), *_ = shown(outputs)
        _, answers = kernel.run("", expressions={"move": f"_aigc_ask({box!r})", "count": "_aigc_count()"})
        count = answers["count"][0] if count is None else count
        mover = Mover(kernel, *answers["move"])
        for _ in range(TICKS_BEFORE):
            mover()
            time.sleep(SECONDS_BETWEEN)
        outputs, _ = kernel.run(cell.source, cell.id, meanwhile=mover)
        place = f"run again {turn + 1}, {cell.source.splitlines()[0]!r}"
        assert errors(outputs) == [], place
        assert storyboards(outputs) == wanted, f"{place}: another storyboard"
        _, answers = kernel.run("", expressions={"count": "_aigc_count()"})
        widgets, failed = answers["count"]
        assert widgets == count, f"{place}: {widgets} widgets, and {count} after the first run"
        assert failed == [], place


@pytest.fixture
def kernel(tmp_path):
    running = Kernel(tmp_path)
    yield running
    running.close()


@pytest.mark.exhaustive
@pytest.mark.notebook
@pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])
def test_every_panels_cell_may_be_run_again_while_the_panel_plays(path, kernel):
    panels = 0
    for cell in cells_for_panels(tools.read(path)):
        outputs, _ = kernel.run(cell.source, cell.id)
        assert errors(outputs) == [], cell.source
        if "panel" in tags_of(cell) and shown(outputs):
            panels += 1
            run_again(kernel, cell, outputs)
    assert panels, "no cell tagged `panel` showed one"


FRAGILE = """
import ipywidgets as widgets, base64, threading, time
from IPython.display import display
state = {"value": 0}
"""
# A panel as it must not be: it shares its state with the one that it replaces, and does not close it.
SHARING = """
play = widgets.Play(min=0, max=10**6)
play.observe(lambda change: state.update(value=state["value"] + 1), names="value")
state["value"] = 0
time.sleep(0.5)
story = base64.b64encode(str(state["value"]).encode()).decode()
view = {"version_major": 2, "version_minor": 0, "model_id": widgets.HBox([play]).model_id}
display({"application/vnd.jupyter.widget-view+json": view, "image/png": story, "text/plain": ""}, raw=True)
"""


@pytest.mark.notebook
def test_a_panel_that_shares_its_state_is_found(kernel):
    """The test above can fail."""
    from nbformat.v4 import new_code_cell

    cell = new_code_cell(SHARING)
    kernel.run(FRAGILE)
    outputs, _ = kernel.run(cell.source, cell.id)
    with pytest.raises(AssertionError, match="another storyboard|widgets, and"):
        run_again(kernel, cell, outputs)
