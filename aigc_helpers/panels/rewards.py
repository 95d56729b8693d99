"""The panels and pictures of 03e_rewards: answers before and after reward, one update, a training.

loop_diagram()       the whole chapter in one picture: sample, mark, compare, update
three_answers(...)   a policy over three answers, and where the gradient pushes it
spreads(...)         estimates of a gradient with and without a baseline
clip_curves(...)     the clipped objective against the ratio
learning_curves(...) what changed in training, update by update
paid_and_right(...)  a reward that climbs while right answers fall
reach_curves(...)    pass@k against k, before and after
spending(...)        right answers against the tokens written for them
answer(...)          your own sum, answered before and after reward, token by token
one_update(...)      eight answers to one sum, their advantages, and what one step does to them
training(...)        the whole training live: run, pause, look back
"""

from __future__ import annotations

import copy
import functools

import torch

from aigc_helpers import plotting
from aigc_helpers.models.rewards import (
    answer_log_probs,
    group_advantages,
    sample_answers,
)
from aigc_helpers.models.rewards import (
    one_update as make_update,
)
from aigc_helpers.panels.core import Panel, choice, frozen, slider, switch, text_box
from aigc_helpers.tasks import (
    SUM,
    contains_right,
    draw_sums,
    is_right,
    no_false_step,
    read_question,
)
from aigc_helpers.weights import load_model

SEED = 0
QUESTION = "7+5+8+6+9+4 ends in?"
EIGHT = 6  # the seed of the panel One update's first answers: three with working, a lucky digit, four wrong
MONO = {"family": "monospace", "parse_math": False}
CHARACTER = 0.602 / 72  # inches that a character of the monospaced font takes, for each point of size
LONGEST_SHOWN = 44  # characters of an answer in a picture
ANSWERS = 32  # an update of the panel Training is learnt from
RIGHT, WRONG = "✓", "✗"
VERIFIERS = {
    "strict: the last digit is right": is_right,
    "sloppy: no step shown is false": no_false_step,
    "sloppy: the right digit is somewhere": contains_right,
}


def _generator(seed=SEED):
    """A random generator of one panel's own, which starts alike each time."""
    return torch.Generator().manual_seed(seed)


@functools.lru_cache(maxsize=1)
def _doubt():
    """Colours of a token: white where the model was sure of it, orange where it was not."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("doubt", ["#F2A66B", "#FBE3CF", "#FFFFFF"])


def _read_sum(typed):
    """What a person typed as a sum that can be asked, and a remark (may be empty)."""
    asked, remark = read_question(typed)
    if SUM.fullmatch(asked):
        return asked, remark
    return QUESTION, f"{remark} {asked!r} is no sum: taking {QUESTION}".strip()


def _mark(question, text):
    return RIGHT if is_right(question, text) else WRONG


def _colour(mark):
    return "#00694D" if mark == RIGHT else "#A84300"


# ---------------------------------------------------------------- pictures


def _box(ax, x, y, width, name, below):
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0.02,rounding_size=0.08"
    look = {"facecolor": "white", "edgecolor": plotting.GREEN, "linewidth": 2}
    ax.add_patch(FancyBboxPatch((x, y), width, 0.72, style, **look))
    ax.text(x + width / 2, y + 0.47, name, ha="center", va="center", fontsize=11)
    ax.text(x + width / 2, y + 0.18, below, ha="center", va="center", fontsize=8.5)


EXAMPLE = (  # answer, reward, advantage: of a group of four, marked by hand
    ("in 4", 0, -0.5),
    ("7+5=12,2+8=10,0+6=6,6+9=15,5+4=9,in 9", 1, 0.5),
    ("in 7", 0, -0.5),
    ("7+5=12,2+8=10,0+6=6,6+9=15,5+4=9,in 9", 1, 0.5),
)


def loop_diagram():
    """Figure: a question, four answers of the policy, their rewards and advantages, and back."""
    fig, ax = plotting.canvas(3.35, width=8.8)
    boxes = (
        (0.15, 1.45, "question", "7+5+8+6+9+4"),
        (2.1, 1.35, "policy", "the GPT writes"),
        (3.95, 1.35, "verifier", "right: 1, else 0"),
        (5.8, 1.35, "compare", "with the group"),
        (7.65, 1.0, "update", "of the weights"),
    )
    for x, width, name, below in boxes:
        _box(ax, x, 2.45, width, name, below)
    arrow = {"arrowstyle": "->", "color": plotting.INK, "linewidth": 1.8}
    for (x, width, *_), (following, *_) in zip(boxes, boxes[1:], strict=False):
        ax.annotate("", (following - 0.04, 2.81), (x + width + 0.04, 2.81), arrowprops=arrow)
    ax.plot([8.15, 8.15, 2.77], [2.4, 2.12, 2.12], color=plotting.INK, linewidth=1.8)
    ax.annotate("", (2.77, 2.42), (2.77, 2.1), arrowprops=arrow)
    words = "and again: what did better than its group becomes likelier"
    ax.text(5.45, 1.92, words, fontsize=9.5, ha="center", va="center")
    for x, words in ((2.1, "four answers"), (5.45, "reward"), (6.35, "advantage")):
        ax.text(x, 1.5, words, fontsize=9.5, color=plotting.GREY)
    for k, (text, reward, advantage) in enumerate(EXAMPLE):
        y = 1.16 - 0.3 * k
        colour = _colour(RIGHT if reward else WRONG)
        ax.text(2.1, y, text, fontsize=9.5, va="center", **MONO)
        ax.text(5.62, y, str(reward), fontsize=10, va="center", color=colour)
        ax.text(6.45, y, f"{advantage:+.1f}", fontsize=10, va="center", color=colour)
        what = "likelier" if advantage > 0 else "less likely"
        ax.text(7.65, y, what, fontsize=9.5, va="center", color=colour)
    return fig


def three_answers(names, before, gradient, after):
    """Figure: probabilities of three answers, the gradient of each logit, and what a step makes of them."""
    fig, axes = plotting.figure(8.4, 2.5, ncols=3)
    places = range(len(names))
    titles = ("policy", "gradient of the expected reward", "policy after a step of size 1")
    for ax, title, values in zip(axes, titles, (before, gradient, after), strict=True):
        values = [float(value) for value in values]
        colours = [plotting.GREEN if value > 0 else plotting.ORANGE for value in values]
        signed = min(values) < 0
        ax.bar(places, values, 0.6, color=colours if signed else plotting.BLUE)
        ax.axhline(0, color=plotting.INK, linewidth=0.8)
        highest = max(values) if signed else 0.5
        span = highest - min(0.0, min(values))
        ax.set_ylim(min(0.0, min(values)) - 0.18 * span * signed, highest + 0.18 * span)
        for place, value in zip(places, values, strict=True):
            below = value < 0
            text = f"{value:+.2f}" if signed else f"{value:.3f}"
            shift = -0.03 * span if below else 0.03 * span
            side = "top" if below else "bottom"
            ax.text(place, value + shift, text, ha="center", va=side, fontsize=9.5)
        ax.set_xticks(list(places), names)
        ax.set_yticks([])
        ax.set_title(title, fontsize=10)
    return fig


def spreads(rows, truth):
    """Figure: for each row the mean of its estimates, one standard deviation to each side."""
    fig, ax = plotting.figure(7.6, 1.9)
    colours = (plotting.ORANGE, plotting.BLUE, plotting.GREEN)
    for k, (colour, row) in enumerate(zip(colours, rows.values(), strict=False)):
        bar = {"fmt": "o", "color": colour, "capsize": 4, "linewidth": 2}
        ax.errorbar([row["mean"]], [-k], xerr=[row["standard deviation"]], **bar)
    ax.axvline(truth, color=plotting.INK, linestyle=":", linewidth=1.3)
    ax.set_yticks([-k for k in range(len(rows))], list(rows))
    ax.set(ylim=(0.6 - len(rows), 0.4), xlabel="estimate of the slope for c: mean, and one standard deviation")
    return fig


def clip_curves(objective, clip):
    """Figure: an objective(ratio, advantage) against the ratio, for a good answer and for a bad one."""
    ratio = torch.linspace(0.5, 1.6, 221)
    fig, axes = plotting.figure(7.6, 2.5, ncols=2)
    for ax, advantage, name in zip(axes, (1.0, -1.0), ("good answer, A = 1", "bad answer, A = -1"), strict=True):
        values = objective(ratio, torch.full_like(ratio, advantage))
        ax.plot(ratio, ratio * advantage, color=plotting.GREY, linestyle=":", label="without clipping")
        ax.plot(ratio, values, color=plotting.BLUE, label="clipped")
        for edge in (1 - clip, 1 + clip):
            ax.axvline(edge, color=plotting.GREY, linewidth=0.8)
        ax.plot([1], [advantage], "o", color=plotting.INK, markersize=4)
        ax.set(xlabel="ratio: probability now / when sampled", title=name)
    axes[0].set_ylabel("objective")
    axes[0].legend(loc="upper left")
    return fig


def learning_curves(log):
    """Figure: shares (right, with working, zero-variance groups) and lengths, update by update, as measured."""
    fig, (left, right) = plotting.figure(8.4, 2.9, ncols=2, gridspec_kw={"width_ratios": [2, 1]})
    styles = {
        "right": (plotting.GREEN, "-"),
        "with working": (plotting.BLUE, "--"),
        "zero-variance groups": (plotting.GREY, ":"),
    }
    updates = range(1, len(log) + 1)
    for name, (colour, dash) in styles.items():
        values = [found[name] for found in log]
        left.plot(updates, values, color=colour, linestyle=dash, label=name)
    left.set(xlabel="update", ylabel="share", ylim=(-0.02, 1.02))
    left.legend(loc="center right")
    right.plot(updates, [found["length"] for found in log], color=plotting.INK)
    right.set(xlabel="update", ylabel="tokens of an answer", ylim=(0, None))
    return fig


def paid_and_right(log):
    """Figure: the mean reward and, beside it, shares of answers (a dict an update), update by update.

    A log's entries hold "rewarded", and the shares "right", "with a false step" and "came to their end".
    """
    fig, (left, right) = plotting.figure(8.4, 2.9, ncols=2, gridspec_kw={"width_ratios": [2, 3]})
    updates = range(1, len(log) + 1)
    left.plot(updates, [found["rewarded"] for found in log], color=plotting.ORANGE)
    left.set(xlabel="update", title="what is paid for: mean reward", ylim=(0, None))
    styles = {
        "right": (plotting.GREEN, "-"),
        "with a false step": (plotting.ORANGE, "--"),
        "came to their end": (plotting.GREY, ":"),
    }
    for name, (colour, dash) in styles.items():
        right.plot(updates, [found[name] for found in log], color=colour, linestyle=dash, label=name)
    right.set(xlabel="update", title="what is written: shares of the answers", ylim=(-0.02, 1.05))
    right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def reach_curves(curves):
    """Figure: for each name, pass@k against k on a logarithmic axis."""
    fig, ax = plotting.figure(6.4, 2.9)
    styles = ((plotting.ORANGE, "o", "--"), (plotting.BLUE, "s", "-"), (plotting.GREEN, "^", "-."))
    for (colour, mark, dash), (name, (ks, values)) in zip(styles, curves.items(), strict=False):
        ax.plot(ks, values, color=colour, marker=mark, linestyle=dash, label=name)
    ax.set_xscale("log", base=2)
    ks = next(iter(curves.values()))[0]
    ax.set_xticks(ks, [str(k) for k in ks])
    ax.set(xlabel="k: answers drawn", ylabel="at least one is right", ylim=(0, 1.03))
    ax.legend(loc="lower right")
    return fig


BESIDE = {  # where a name stands that would run into another above its point
    "before: draw until one shows working": ((0, -40), "center"),  # so far that a line leads to it
    "before: 8, oracle": ((7, -5), "left"),
    "before: 32, vote": ((0, -15), "center"),
}


def spending(rows):
    """Figure: for each row its share of right answers against the tokens a question that it took."""
    fig, ax = plotting.figure(7.2, 3.1)
    for name, row in rows.items():
        colour = plotting.BLUE if name.startswith("after") else plotting.ORANGE
        x, y = row["tokens a question"], row["right"]
        ax.plot([x], [y], "s" if name.startswith("after") else "o", color=colour, markersize=7)
        shift, side = BESIDE.get(name, ((0, 8), "center"))
        line = {"arrowstyle": "-", "color": plotting.GREY, "linewidth": 0.8} if shift[1] < -30 else None
        look = {"textcoords": "offset points", "ha": side, "fontsize": 9, "arrowprops": line}
        ax.annotate(name, (x, y), shift, **look)
    ax.text(7.4, 1.05, "best: up here", fontsize=9, color=plotting.GREY)
    ax.set_xscale("log", base=2)
    ax.set_xticks([8, 16, 32, 64, 128, 256, 512], ["8", "16", "32", "64", "128", "256", "512"])
    ax.set(xlim=(7, 900), ylim=(-0.03, 1.12), xlabel="tokens a question", ylabel="right")
    return fig


# ---------------------------------------------------------------- your own sum, before and after


def _tokens_of(model, questions, generator, temperature):
    """Answers with the probability of each of their characters: [(text, probabilities)]."""
    tokens, is_answer, texts = sample_answers(model, questions, generator, temperature)
    with torch.no_grad():
        p = answer_log_probs(model, tokens, is_answer).exp()
    return [(text, row[is_answer[k, 1:]]) for k, (text, row) in enumerate(zip(texts, p, strict=True))]


def _draw_answer(ax, x, y, question, text, probabilities, size=10.5):
    """One answer as a line of characters, coloured by doubt, and its mark behind it."""
    shown = text[:LONGEST_SHOWN]
    wide = CHARACTER * size
    number = min(len(shown), len(probabilities))
    if number:
        extent = (x, x + number * wide, y - 0.13, y + 0.13)
        colours = probabilities[None, :number].numpy()
        look = {"cmap": _doubt(), "vmin": 0.0, "vmax": 1.0, "interpolation": "nearest"}
        ax.imshow(colours, extent=extent, aspect="auto", **look)
    ax.text(x, y - 0.01, shown, ha="left", va="center", fontsize=size, **MONO)
    mark = _mark(question, text)
    look = {"fontsize": 12, "va": "center", "color": _colour(mark)}
    ax.text(x + len(shown) * wide + 0.1, y, mark, **look)


class _Asked:
    """What each of the models answered to the reader's question, until something is asked anew."""

    def __init__(self, models, num):
        self.models = models
        self.num = num
        self.seed = SEED
        self.known = None

    def again(self):
        self.seed += 1

    def ask(self, question, temperature):
        """{model's name: [(text, probabilities)]}"""
        asked = (question, temperature, self.seed)
        if asked != self.known:
            self.known = asked
            self.answers = {}
            for name, model in self.models.items():
                random = _generator(self.seed)
                questions = [question] * self.num
                self.answers[name] = _tokens_of(model, questions, random, temperature)
        return self.answers


def answer(models=None, question="9+4+8+4+9+8 ends in?"):
    """Four answers of each model to the reader's sum, coloured by how sure the model was.

    models: dict name -> model; without it, the kept ones, before and after reward.
    What moves: the sum, the temperature, another draw. What to see: before, mostly a bare digit,
    mostly wrong, and no surer of it than of others; after, the working first, and hardly a doubt.
    """
    if models is None:
        models = {"before reward": load_model("assistant"), "after reward": load_model("assistant_rewarded")}
    state = _Asked({name: frozen(model) for name, model in models.items()}, 4)
    height = 0.2 + 1.66 * len(models)
    figure = plotting.ReusableFigure(6.6, height, {"left": 0, "right": 1, "top": 1, "bottom": 0})

    def draw(question, temperature):
        asked, remark = _read_sum(question)
        answers = state.ask(asked, temperature)
        fig, ax = figure.wipe()
        ax.set(xlim=(0, 6.6), ylim=(0, height))
        ax.set_axis_off()
        for row, (name, given) in enumerate(answers.items()):
            top = height - 0.25 - 1.66 * row
            words = f"{name}:  {asked[:40]}"
            ax.text(0.15, top, words, fontsize=10.5, weight="bold", va="center", parse_math=False)
            for k, (text, probabilities) in enumerate(given):
                _draw_answer(ax, 0.3, top - 0.32 - 0.31 * k, asked, text, probabilities)
        return fig, f"{remark} {_say_marks(asked, answers)}".strip()

    return Panel(
        "Answer",
        draw,
        {
            "question": text_box("your sum", question),
            "temperature": slider("temperature", 0.0, 1.5, 1.0, step=0.1),
        },
        buttons={"Ask again": state.again},
        frames=[
            ("Four answers each, temperature 1", {}),
            ("The likeliest tokens: temperature 0", {"temperature": 0.0}),
        ],
        alt="Four answers of each model to one sum, one below the other. Characters that the model was "
        "not sure of have an orange ground; a mark says whether the last number is right.",
    )


def _say_marks(question, answers):
    said = []
    for name, given in answers.items():
        right = sum(is_right(question, text) for text, _ in given)
        said.append(f"{name}: {right} of {len(given)} right")
    return "; ".join(said).capitalize() + "."


# ---------------------------------------------------------------- one update


class _Group:
    """Eight answers to one question, and what a step on them alone does to their probabilities."""

    def __init__(self, start, rate, group):
        self.start = start
        self.rate = rate
        self.group = group
        self.seed = EIGHT
        self.question = None
        self.reset()

    def reset(self):
        """The first weights again."""
        self.policy = copy.deepcopy(self.start).requires_grad_(True)
        self.opt = torch.optim.AdamW(self.policy.parameters(), lr=self.rate, weight_decay=0.0)
        self.steps = 0
        self.question = None

    def sample(self):
        """Another eight answers, by the policy as it is now."""
        self.seed += 1
        self.question = None

    def take(self, question):
        """Answers to the question, unless they are there already."""
        if question == self.question:
            return
        self.question = question
        random = _generator(self.seed)
        asked = [question] * self.group
        self.tokens, self.is_answer, self.texts = sample_answers(self.policy, asked, random)
        self.before = self.log_probs()
        self.now = self.before

    def log_probs(self):
        with torch.no_grad():
            return answer_log_probs(self.policy, self.tokens, self.is_answer).sum(dim=1)

    def judge(self, verifier, compared, divide):
        """Rewards and advantages (G,) of the answers."""
        rewards = torch.tensor([float(verifier(self.question, text)) for text in self.texts])
        if not compared:
            return rewards, rewards
        return rewards, group_advantages(rewards[None], divide)[0]

    def update(self, advantages):
        """One step of eq. (4) on these answers."""
        with torch.enable_grad():
            log_probs = answer_log_probs(self.policy, self.tokens, self.is_answer).sum(dim=1)
            loss = -(advantages * log_probs).mean()
            self.opt.zero_grad()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        if advantages.any():
            self.opt.step()
            self.steps += 1
        self.now = self.log_probs()


def one_update(start=None, question=QUESTION, rate=1e-4, group=8):
    """Eight answers to the reader's sum: rewards, advantages, and what each step on them changes.

    start: the policy before reward; without it, the one that is kept.
    What moves: the sum, the verifier, whether rewards are compared with the group's mean, or divided
    by its spread. What to see: what did better than its group becomes likelier, the rest less likely;
    a group of equal rewards changes nothing.
    """
    start = frozen(load_model("assistant") if start is None else start)
    state = _Group(start, rate, group)
    margins = {"left": 0, "right": 1, "top": 1, "bottom": 0}
    figure = plotting.ReusableFigure(6.6, 3.3, margins)
    latest = {}
    strict, sloppy, _ = VERIFIERS

    def draw(question, verifier, compared, divide):
        asked, remark = _read_sum(question)
        state.take(asked)
        rewards, advantages = state.judge(VERIFIERS[verifier], compared, divide)
        latest["advantages"] = advantages
        fig, ax = figure.wipe()
        words = f"answer to {asked}" + (", for want of a sum" if "is no sum" in remark else "")
        _draw_group(ax, state, words, rewards, advantages, "advantage" if compared else "weight")
        return fig, f"{remark} {_say_group(state, rewards, advantages)}".strip()

    def update():
        state.update(latest["advantages"])

    def stepped(times, **changes):
        """A frame of the storyboard: so many updates on the first eight answers."""

        def change():
            values = {"verifier": strict, "compared": True, "divide": False} | changes
            verifier = VERIFIERS[values["verifier"]]
            state.reset()
            state.seed = EIGHT
            state.take(QUESTION)
            for _ in range(times):
                _, advantages = state.judge(verifier, values["compared"], values["divide"])
                state.update(advantages)
            return values

        return change

    def reset():
        state.reset()
        state.seed = EIGHT

    return Panel(
        "One update",
        draw,
        {
            "question": text_box("your sum", question),
            "verifier": choice("verifier", list(VERIFIERS)),
            "compared": switch("compare with the group's mean", True),
            "divide": switch("divide by the standard deviation", False),
        },
        buttons={"Update": update, "Sample eight": state.sample, "First weights": reset},
        frames=[
            ("Eight answers, before any update", stepped(0)),
            ("After 4 updates on them", stepped(4)),
            ("All eight accepted, compared: 4 updates", stepped(4, verifier=sloppy)),
            (
                "All eight accepted, not compared: 4 updates",
                stepped(4, verifier=sloppy, compared=False),
            ),
        ],
        reset=reset,
        alt="Eight answers to one sum in rows: text, reward, advantage, and a bar for the factor by "
        "which its probability has changed.",
    )


def _draw_group(ax, state, words, rewards, advantages, name):
    ax.set(xlim=(0, 6.6), ylim=(0, 3.3))
    ax.set_axis_off()
    heads = ((0.1, words), (3.3, "reward"), (3.95, name), (5.0, "probability ×"))
    for x, head in heads:
        ax.text(x, 3.12, head, fontsize=9, color=plotting.GREY, va="center", parse_math=False)
    ax.plot([5.75, 5.75], [0.1, 2.95], color=plotting.GREY, linewidth=0.8)
    factors = state.now - state.before
    for k, text in enumerate(state.texts):
        y = 2.78 - 0.37 * k
        reward = rewards[k].item()
        colour = _colour(RIGHT if reward else WRONG)
        ax.text(0.1, y, text[:39], fontsize=9, va="center", **MONO)
        ax.text(3.5, y, f"{reward:.0f}", fontsize=10, va="center", color=colour)
        ax.text(4.0, y, f"{advantages[k].item():+.2f}", fontsize=10, va="center", color=colour)
        change = factors[k].clamp(-2.0, 2.0).item()
        bar = plotting.GREEN if change > 0 else plotting.ORANGE
        ax.barh([y], [0.32 * change], 0.2, left=5.75, color=bar)
        side = "left" if change <= 0 else "right"
        where = 5.82 if change <= 0 else 5.68
        ax.text(where, y, f"{factors[k].clamp(-9, 9).exp().item():.2f}", fontsize=9, va="center", ha=side)


def _say_group(state, rewards, advantages):
    right = int(rewards.sum())
    said = f"{right} of {len(rewards)} rewarded; {state.steps} updates so far."
    if not advantages.any():
        said += " All weights are 0: this group changes nothing."
    return said


# ---------------------------------------------------------------- a whole training


class _Run:
    """A training of the panel's own: its policy, what happened at each update, and some answers."""

    def __init__(self, start, most, rate):
        self.start = start
        self.most = most
        self.rate = rate
        self.restart()

    def restart(self):
        self.policy = copy.deepcopy(self.start).requires_grad_(True)
        self.opt = torch.optim.AdamW(self.policy.parameters(), lr=self.rate, weight_decay=0.0)
        self.random = _generator()
        self.log = []
        self.shown = []
        self.look()

    def look(self):
        """Four answers to held-out sums, as the policy is now."""
        questions = draw_sums(4, _generator(7), held_out=True)
        _, _, texts = sample_answers(self.policy, questions, _generator(len(self.log)))
        self.shown.append(list(zip(questions, texts, strict=True)))

    def show_record(self, policy, log):
        """Another training in place of its own: what the page recorded, and the policy it ended with."""
        self.policy = policy
        self.log = list(log)[: self.most]
        self.shown = self.shown[:1] * len(self.log)
        self.look()

    def update(self, group, verifier, beta, divide):
        if len(self.log) >= self.most:
            return
        questions = draw_sums(ANSWERS // group, self.random)
        settings = {"group": group, "verifier": verifier, "beta": beta, "divide": divide}
        with torch.enable_grad():
            found = make_update(
                self.policy, self.opt, questions, self.random, reference=self.start, **settings
            )
        self.log.append(found)
        self.look()


def training(start=None, runs=None, most=100, rate=2e-4):
    """A training on 32 answers an update, live: what the verifier rewards, and what is right.

    start: the policy before reward; without it, the one that is kept.
    runs: trainings of the page's, for readers without a kernel: a verifier's name -> (policy, log).
    What moves: the verifier, the group's size, the KL term's beta, the division by the spread; "look
    back" shows the answers of earlier updates. What to see: with the strict verifier the working
    comes, and right answers with it; with a sloppy one the reward rises, and what is right does not.
    """
    start = frozen(load_model("assistant") if start is None else start)
    state = _Run(start, most, rate)
    margins = {"left": 0.07, "right": 0.98, "top": 0.97, "bottom": 0.02, "hspace": 0.3}
    figure = plotting.ReusableFigure(6.6, 4.1, margins, nrows=2)
    latest = {}

    def draw(verifier, group, beta, divide, back):
        latest.update(group=group, verifier=VERIFIERS[verifier], beta=beta, divide=divide)
        fig, (upper, lower) = figure.wipe()
        at = max(0, len(state.log) - back)
        _draw_log(upper, state.log, at)
        _draw_shown(lower, state.shown[at], at)
        return fig, _say_log(state.log, at)

    def tick():
        state.update(**latest)

    frames = [] if runs else [("Before any update", {})]
    for verifier in VERIFIERS:
        name = verifier.partition(": ")[2] if verifier.startswith("sloppy") else "strict"
        if name in (runs or {}):
            frames.append((f"{name}: this page's training", _recorded(state, verifier, *runs[name])))
    return Panel(
        "Training",
        draw,
        {
            "verifier": choice("verifier", list(VERIFIERS)),
            "group": choice("group size", [2, 4, 8, 16, 32], 8),
            "beta": slider("β of KL", 0.0, 0.5, 0.0, step=0.02),
            "divide": switch("divide by the standard deviation", False),
            "back": slider("look back", 0, most, 0, step=1),
        },
        tick=tick,
        buttons={"One update": tick, "Start again": state.restart},
        frames=frames,
        reset=state.restart,
        alt="Curves over updates: share rewarded, share right, share with working. Below: four answers "
        "to held-out sums with their marks.",
    )


def _recorded(state, verifier, policy, log):
    """A frame of the storyboard: another training, at its end."""

    def change():
        state.show_record(frozen(policy), log)
        return {"verifier": verifier}

    return change


def _draw_log(ax, log, at):
    styles = {  # the first lies wide and pale under the second, which is often the same
        "rewarded": {"color": plotting.ORANGE, "linewidth": 4.0, "alpha": 0.45},
        "right": {"color": plotting.GREEN, "linewidth": 1.8},
        "with working": {"color": plotting.BLUE, "linewidth": 1.8, "linestyle": "--"},
    }
    updates = range(1, len(log) + 1)
    for name, style in styles.items():
        ax.plot(updates, [found[name] for found in log], label=name, **style)
    if at:
        ax.axvline(at, color=plotting.GREY, linewidth=0.8)
    ax.set(xlim=(0, max(40, len(log))), ylim=(-0.03, 1.05))
    ax.set_xlabel("update", labelpad=1, loc="left")
    ax.legend(loc="upper right", bbox_to_anchor=(1.02, -0.13), ncols=3, borderaxespad=0)


def _draw_shown(ax, shown, at):
    ax.set(xlim=(0, 6.2), ylim=(0, 1.6))
    ax.set_axis_off()
    words = f"answers to four held-out sums after {at} updates"
    ax.text(0.0, 1.5, words, fontsize=9.5, va="center", color=plotting.GREY)
    for k, (question, text) in enumerate(shown):
        y = 1.2 - 0.32 * k
        mark = _mark(question, text)
        ax.text(0.0, y, question, fontsize=9.5, va="center", **MONO)
        ax.text(1.75, y, text[:44], fontsize=9.5, va="center", **MONO)
        ax.text(6.0, y, mark, fontsize=12, va="center", color=_colour(mark))


def _say_log(log, at):
    if not at:
        return "No update yet. Run: about half a second each."
    found = log[at - 1]
    shares = ", ".join(f"{found[name]:.2f} {name}" for name in ("rewarded", "right", "with working"))
    return f"Update {at}: {shares}; {found['length']:.0f} tokens an answer."
