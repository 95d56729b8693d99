"""The panels and pictures of 03d_assistant: ask a model at each stage, and say which answer you prefer.

assistant_diagram()     a model that predicts becomes one that answers: the whole chapter in one picture
chat_boxes(...)         a chat as tokens, and which of them the loss counts
policy_bars(...)        a few answers, and how probable each is under several policies
likelihood_curves(...)  what a training on pairs does to both answers of a pair
answer(...)             your own question, answered by the model at each stage
preference(...)         choose between two answers; a reward model follows, and a policy follows it
"""

from __future__ import annotations

import torch

from aigc_helpers import plotting, tasks
from aigc_helpers.models.gpt import generate, next_probabilities
from aigc_helpers.panels.core import Panel, choice, frozen, slider, text_box
from aigc_helpers.weights import load_model

SEED = 0
MONO = {"family": "monospace", "parse_math": False}
PER_ROW = 44  # characters in a row of an answer
NUM_BARS = 10
PLAYS_LENGTH = 22  # characters that a network without chats writes: it would never stop
QUESTIONS = (
    "7+5+8+6+9+4 ends in?",
    "Celia reads. The king is Paris. Titus walks. Who is king?",
    "Who speaks?\nROMEO: Good night\nNURSE: My dear lady\nPARIS: Fare thee well",
)
PLAYS = "has read plays"
TUNED = "tuned on answers"
REWARDED = "after rewards (03e)"
# Stage -> the kept model.
KEPT = {PLAYS: "assistant_base", TUNED: "assistant", REWARDED: "assistant_rewarded"}


def _visible(character):
    """A character as it can be drawn: new lines and blanks have a sign."""
    return {"\n": "↵", " ": "␣"}.get(character, character)


def _generator(seed=SEED):
    """A random generator of one panel's own, which starts alike each time."""
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- a model at a stage


class _Stage:
    """A model at a stage. One that knows no chats goes on from the bare question, and never stops by itself."""

    def __init__(self, model, knows_chats):
        self.model = frozen(model)
        self.knows_chats = knows_chats
        self.end = torch.tensor([tasks.END]) if knows_chats else None

    def prompt(self, question):
        return torch.tensor(tasks.encode_chat(question) if self.knows_chats else tasks.encode(question))


def _kept(stage):
    """The kept model of a stage. Raises ValueError or RuntimeError where there is none that fits."""
    return _Stage(load_model(KEPT[stage]), knows_chats=stage != PLAYS)


@torch.no_grad()
def write_answer(stage, question, temperature, generator):
    """The tokens of an answer, at most 45 (22 without chats), and (n, V) what was expected at each."""
    prompt = stage.prompt(question)[None]
    number = tasks.ANSWER_LENGTH + 1 if stage.knows_chats else PLAYS_LENGTH
    written = generate(stage.model, prompt, number, generator, temperature=temperature, end=stage.end)
    logits = stage.model(written[:, :-1])[0, prompt.shape[1] - 1 :]
    return written[0, prompt.shape[1] :].tolist(), next_probabilities(logits)


# ---------------------------------------------------------------- the chapter in one picture


def assistant_diagram():
    """Figure: three stages of one network, and what each writes when it is asked for a sum."""
    fig, ax = plotting.canvas(3.1, width=8.8)
    stages = (
        ("predict", "plays, character by character", "03", plotting.BLUE),
        ("answer", "chats: the loss counts answers", "sections 1 and 2", plotting.ORANGE),
        ("be preferred", "pairs: this answer, not that", "sections 3 to 5", plotting.GREEN),
    )
    for k, (name, data, where, colour) in enumerate(stages):
        x = 0.25 + 2.9 * k
        _draw_box(ax, x, 1.8, 2.4, colour, name, data, where)
        if k:
            arrow = {"arrowstyle": "->", "color": plotting.INK, "linewidth": 1.8}
            ax.annotate("", (x - 0.06, 2.35), (x - 0.44, 2.35), arrowprops=arrow)
    look = {"fontsize": 11.5, "va": "center"}
    ax.text(0.25, 1.45, "asked", fontsize=11, va="center")
    ax.text(0.95, 1.45, QUESTIONS[0], color=plotting.INK, **look, **MONO)
    below = ("it writes", "it writes", "its pairs prefer")
    for k, (word, said, colour) in enumerate(zip(below, finished_answers(), _colours(), strict=True)):
        x = 0.25 + 2.9 * k
        ax.text(x, 0.95, word, fontsize=10, va="center", color="#5A5A5A")
        for row, part in enumerate(_cut(said, 24)[:2]):
            ax.text(x, 0.6 - 0.32 * row, part, color=colour, **look, **MONO)
    return fig


def _colours():
    return "#005A8C", "#A84600", "#006B4E"  # of the three stages, dark enough to read


def _draw_box(ax, x, y, width, colour, name, below, where):
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0.02,rounding_size=0.1"
    look = {"facecolor": "white", "edgecolor": colour, "linewidth": 2}
    ax.add_patch(FancyBboxPatch((x, y), width, 1.1, style, **look))
    for text, height, size in ((name, 0.84, 12.5), (below, 0.5, 9.5), (where, 0.22, 9)):
        ax.text(x + width / 2, y + height, text, ha="center", va="center", fontsize=size)


def _cut(text, width):
    """The text in pieces of at most `width` characters; nothing is lost."""
    return [text[k : k + width] for k in range(0, len(text), width)] or [""]


def finished_answers():
    """What the two kept stages write for the sum, and the answer that the third is shown as the better one."""
    said = []
    for name in (PLAYS, TUNED):
        try:
            stage = _kept(name)
        except (ValueError, RuntimeError):  # while the page has not yet made the weights
            said.append("…")
            continue
        tokens, _ = write_answer(stage, QUESTIONS[0], 0.0, _generator())
        said.append(tasks.decode(tokens).removesuffix(tasks.SPECIAL[2]).replace("\n", "↵"))
    return [*said, tasks.answer_sum(QUESTIONS[0], working=True)]


def chat_boxes(question, answer):
    """Figure: a chat as boxes, one a token; those that the loss counts are filled.

    Over each counted box stands an arrow from the token before it: that is where it is asked for.
    """
    from matplotlib.patches import Rectangle

    tokens = tasks.encode_chat(question, answer)
    first = len(question) + 2
    names = [tasks.decode([token]) for token in tokens]
    widths = [1.75 if name in tasks.SPECIAL else 0.42 for name in names]
    total = sum(widths)
    fig, ax = plotting.figure(8.8, 1.5, tight=False)
    fig.subplots_adjust(0.01, 0.02, 0.99, 0.98)
    ax.set(xlim=(-0.1, max(total, 15) + 0.1), ylim=(-0.75, 1.25))
    ax.set_axis_off()
    x = 0.0
    middles = []
    for place, (name, width) in enumerate(zip(names, widths, strict=True)):
        asked_for = place >= first
        face = "#FBE3D4" if asked_for else "white"
        edge = plotting.ORANGE if asked_for else plotting.GREY
        ax.add_patch(Rectangle((x + 0.02, -0.25), width - 0.04, 0.6, facecolor=face, edgecolor=edge))
        size = 9 if name in tasks.SPECIAL else 11
        ax.text(x + width / 2, 0.05, _visible(name), ha="center", va="center", fontsize=size, **MONO)
        middles.append(x + width / 2)
        x += width
    for place in range(first, len(tokens)):
        arrow = {"arrowstyle": "->", "color": plotting.ORANGE, "connectionstyle": "arc3,rad=-0.5"}
        ax.annotate("", (middles[place], 0.38), (middles[place - 1], 0.38), arrowprops=arrow)
    ax.text(0, -0.58, "given: no loss", fontsize=10, va="center")
    where = middles[first] - widths[first] / 2
    ax.text(where, -0.58, "asked for: counted in the loss", fontsize=10, va="center", color="#A84600")
    return fig


def policy_bars(answers, policies):
    """Figure: for each answer a bar a policy: dict name -> probabilities (n,)."""
    fig, ax = plotting.figure(7.6, 2.6)
    number = len(policies)
    width = 0.8 / number
    for k, (name, p) in enumerate(policies.items()):
        x = [place + (k - (number - 1) / 2) * width for place in range(len(answers))]
        colour = plotting.GREY if k == 0 else plotting.CYCLE[k - 1]
        ax.bar(x, [float(value) for value in p], 0.92 * width, label=name, color=colour)
    ax.set_xticks(range(len(answers)), answers, **{"family": "monospace"})
    ax.set(ylim=(0, 1), ylabel="probability")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def likelihood_curves(histories, most=None):
    """Figure: log-probabilities of chosen answers by step, and below those of rejected ones; a column a training.

    histories: dict name -> {"chosen": numbers, "rejected": numbers}, each minus the reference's
    most: None, or dict name -> the most that the chosen answers' habit can add, a dotted line
    """
    fig, axes = plotting.figure(8.8, 3.8, nrows=2, ncols=len(histories), sharex=True, sharey="row", squeeze=False)
    for (upper, lower), (name, curves) in zip(axes.T, histories.items(), strict=True):
        steps = range(1, len(curves["chosen"]) + 1)
        upper.plot(steps, curves["chosen"], color=plotting.BLUE)
        lower.plot(steps, curves["rejected"], color=plotting.ORANGE, linestyle="--")
        for ax in (upper, lower):
            ax.axhline(0, color=plotting.GREY, linewidth=1)
        if most:
            upper.axhline(most[name], color=plotting.BLUE, linestyle=":", label="most that the habit can add")
        upper.set(title=name)
        lower.set(xlabel="step")
    axes[0, 0].set_ylabel("chosen, nats")
    axes[1, 0].set_ylabel("rejected, nats")
    if most:
        axes[0, 0].legend(loc="upper left")
    return fig


# ---------------------------------------------------------------- the panel Answer


class _Asking:
    """A question, the stage that is asked, and its answer."""

    def __init__(self, stages):
        self.stages = stages
        self.asked = None
        self.seed = SEED

    def ask(self, stage, typed, temperature):
        """Write an answer, unless the present one was written for just this."""
        asked = (stage, typed, temperature, self.seed)
        if asked != self.asked:
            self.question, self.remark = tasks.read_question(typed)
            found = write_answer(self.stages[stage], self.question, temperature, _generator(self.seed))
            self.tokens, self.p = found
            self.asked = asked

    def again(self):
        self.seed += 1

    def restart(self):
        self.seed = SEED
        self.asked = None


def answer(models=None, question=QUESTIONS[0], title="Answer"):
    """Your own question, answered by the model at each stage; its ground says how sure it was of each token.

    What moves: the question, the stage, the temperature, and which token the bars are about. What to see: the
    pre-trained model goes on as a play would; the tuned one answers and stops (■). The more orange
    a token, the less probable it was.

    models: dict name -> model over the alphabet of `tasks`; the one named PLAYS is asked without the template.
        Without it, those that are kept
    """
    if models is None:
        stages = {stage: _kept(stage) for stage in KEPT}
    else:
        stages = {name: _Stage(model, knows_chats=name != PLAYS) for name, model in models.items()}
    state = _Asking(stages)
    margins = {"left": 0.02, "right": 0.98, "top": 0.98, "bottom": 0.03}
    figure = plotting.ReusableFigure(6.6, 4.2, margins=margins, nrows=2)
    names = list(stages)
    last = TUNED if TUNED in stages else names[-1]

    def draw(question, stage, temperature, place):
        state.ask(stage, question, temperature)
        place = min(place, len(state.tokens))
        written = [tasks.decode([token]) for token in state.tokens]
        fig, (upper, lower) = figure.wipe()
        _draw_answer(upper, state, written, place)
        _draw_candidates(lower, state.p[place - 1], written[place - 1], place)
        return fig, _say(state, stage, written)

    return Panel(
        title,
        draw,
        controls={
            "question": text_box("question", question),
            "stage": choice("model", names, last),
            "temperature": slider("temperature", 0.0, 2.0, 0.0, step=0.1, fmt=".1f"),
            "place": slider("bars of token", 1, tasks.ANSWER_LENGTH + 1, 1, step=1),
        },
        buttons={"Write again": state.again},
        presets={
            "a sum": {"question": QUESTIONS[0]},
            "a text": {"question": QUESTIONS[1]},
            "a scene": {"question": QUESTIONS[2]},
        },
        frames=[
            (f"{name}: {kind}", {"stage": name, "question": text, "place": 1})
            for kind, text in (("a sum", QUESTIONS[0]), ("a text", QUESTIONS[1]))
            for name in dict.fromkeys([names[0], last])
        ],
        reset=state.restart,
        alt="A question and the answer to it, each token of the answer on a ground that is the more orange "
        "the less probable the token was; below, bars with the most probable tokens at one place.",
    )


def _say(state, stage, names):
    """The status line: the verifier's word, if the question is one of the three tasks."""
    text = "".join(name for name in names if name not in tasks.SPECIAL)
    remark = f"{state.remark} " if state.remark else ""
    right = tasks.right_answer(state.question)
    if right is None:
        return f"{remark}None of the three tasks: nobody can mark this one."
    if state.stages[stage].knows_chats and tasks.is_right(state.question, text):
        return f"{remark}Right."
    return f"{remark}Not right: it should be {right}"


def _draw_answer(ax, state, names, place):
    """The question in grey; under it the answer's tokens, coloured, one of them outlined."""
    from matplotlib.patches import Rectangle

    question = _cut(state.question.replace("\n", "↵").replace(" ", "␣"), PER_ROW)
    rows = len(question) + 1 + len(names) // PER_ROW + 1
    ax.set(xlim=(0, PER_ROW), ylim=(-max(rows, 4) - 0.3, 0.2))
    ax.set_axis_off()
    for row, part in enumerate(question):
        for k, character in enumerate(part):
            centred = {"ha": "center", "va": "center", "fontsize": 10.5, "color": "#5A5A5A"}
            ax.text(k + 0.5, -row - 0.4, character, **centred, **MONO)
    top = len(question) + 0.4
    for k, (token, name) in enumerate(zip(state.tokens, names, strict=True)):
        p = state.p[k, token].item()
        x = k % PER_ROW
        y = -top - k // PER_ROW - 0.85
        look = {"facecolor": _shade(p), "edgecolor": "none", "linewidth": 0}
        if k + 1 == place:
            look |= {"edgecolor": plotting.ORANGE, "linewidth": 2.2, "zorder": 3}
        ax.add_patch(Rectangle((x, y), 1, 0.85, **look))
        sign = "■" if name in tasks.SPECIAL else _visible(name)
        ax.text(x + 0.5, y + 0.42, sign, ha="center", va="center", fontsize=11, zorder=4, **MONO)


def _shade(p):
    """White for a probability of 1, orange (#F2A66B) for 0; ink is readable on all of it."""
    orange, white = (0.95, 0.65, 0.42), (1.0, 1.0, 1.0)
    return tuple(a + p * (b - a) for a, b in zip(orange, white, strict=True))


def _draw_candidates(ax, p, taken, place):
    """The most probable tokens at one place of the answer; the one that was taken is orange."""
    top = p.topk(NUM_BARS)
    names = [tasks.decode([token]) for token in top.indices.tolist()]
    colours = [plotting.ORANGE if name == taken else plotting.BLUE for name in names]
    ax.bar(range(NUM_BARS), top.values.tolist(), 0.6, color=colours)
    ax.set(xlim=(-0.7, NUM_BARS - 0.3), ylim=(-0.28, 1.45))
    ax.set_axis_off()
    for k, (name, value) in enumerate(zip(names, top.values.tolist(), strict=True)):
        short = name.strip("<>") if name in tasks.SPECIAL else _visible(name)
        size = 8.5 if name in tasks.SPECIAL else 11
        ax.text(k, -0.04, short, ha="center", va="top", fontsize=size, **MONO)
        ax.text(k, value + 0.03, f"{value:.2f}", ha="center", va="bottom", fontsize=8.5)
    ax.text(-0.6, 1.36, f"what it expected as token {place} (temperature 1)", fontsize=9.5, va="center")


# ---------------------------------------------------------------- the panel Preference

ASKED = "7+5+8 ends in?"
CANDIDATES = (
    "in 0",
    "7+5=12,2+8=10,in 0",
    "in 1",
    "7+5=12,2+8=11,in 1",
    "in 20",
    "7+5=13,3+8=11,in 1",
)
FEATURES = ("shows working", "the digit is right", "length / 10")
RATERS = {"by hand": None, "in a hurry": "short", "careful": "right", "likes to see working": "working"}
PRIOR = 0.1  # keeps the weights small where the choices say nothing


def features_of(question, answer):
    """What the panel's reward model looks at: three numbers."""
    right = tasks.is_right(question, answer)
    return [float(tasks.has_working(answer)), float(right), len(answer) / 10]


def rate(kind, first, second):
    """Which of two answers (0 or 1) a rater of a kind takes; None if both are alike to them."""
    shown = [features_of(ASKED, CANDIDATES[k]) for k in (first, second)]
    working, right, length = zip(*shown, strict=True)
    score = {"short": [-x for x in length], "right": right, "working": working}[kind]
    if score[0] == score[1]:
        return None
    return int(score[1] > score[0])


def fit_reward(differences, steps=12):
    """Weights w of a reward w·f, from rows f(chosen) − f(rejected): Newton's method on Bradley and Terry's loss.

    A small penalty on w keeps it finite when the choices never contradict each other.
    """
    number = len(FEATURES)
    w = torch.zeros(number)
    if not differences:
        return w
    D = torch.tensor(differences)
    for _ in range(steps):
        missed = torch.sigmoid(-(D @ w))
        gradient = -(missed[:, None] * D).sum(dim=0) + PRIOR * w
        curvature = (D * (missed * (1 - missed))[:, None]).T @ D + PRIOR * torch.eye(number)
        w = w - torch.linalg.solve(curvature, gradient)
    return w


class _Choosing:
    """Pairs shown so far, what was chosen, and the pair that is shown now."""

    def __init__(self):
        self.restart()

    def restart(self):
        self.random = _generator()
        self.differences = []
        self.show()

    def show(self):
        pair = torch.randperm(len(CANDIDATES), generator=self.random)[:2]
        self.pair = pair.tolist()

    def choose(self, which):
        chosen, rejected = (features_of(ASKED, CANDIDATES[self.pair[k]]) for k in (which, 1 - which))
        self.differences.append([a - b for a, b in zip(chosen, rejected, strict=True)])
        self.show()

    def let_choose(self, kind, number=10):
        """So many pairs that mean something to a rater are decided by them."""
        decided = 0
        while decided < number:
            which = rate(kind, *self.pair)
            if which is None:
                self.show()
                continue
            self.choose(which)
            decided += 1


def preference(title="Preference"):
    """Choose between two answers; a reward model follows your choices, and a policy follows the reward.

    What moves: your choices (or those of a rater of a kind), and β. What to see: after a few choices the bars of
    the policy go where you point, also for answers that you never compared; a small β goes all the way.
    """
    state = _Choosing()
    margins = {"left": 0.03, "right": 0.97, "top": 0.93, "bottom": 0.04, "hspace": 0.3}
    figure = plotting.ReusableFigure(6.6, 4.4, margins=margins, nrows=2)
    reference = torch.full((len(CANDIDATES),), 1 / len(CANDIDATES))
    shown = torch.tensor([features_of(ASKED, candidate) for candidate in CANDIDATES])
    latest = {"rater": None, "note": ""}

    def draw(beta, rater=None):
        latest["rater"] = rater
        note = latest["note"]
        latest["note"] = ""
        w = fit_reward(state.differences)
        reward = shown @ w
        policy = (reference.log() + reward / beta).softmax(dim=0)
        fig, (upper, lower) = figure.wipe()
        _draw_pair(upper, state)
        _draw_policy(lower, reward, policy)
        right = sum(p for p, f in zip(policy.tolist(), shown[:, 1].tolist(), strict=True) if f)
        weights = ", ".join(f"{name} {value:+.1f}" for name, value in zip(FEATURES, w.tolist(), strict=True))
        choices = f"{len(state.differences)} choices. Reward: {weights}. Policy right: {100 * right:.0f} %."
        return fig, f"{note}{choices}"

    def decide():
        if latest["rater"] is None:
            latest["note"] = "No rater is chosen: pick one in the list. "
        else:
            state.let_choose(latest["rater"])

    def after(kind, beta):
        def change():
            state.restart()
            if kind:
                state.let_choose(kind)
            return {"beta": beta}

        return change

    return Panel(
        title,
        draw,
        controls={
            "beta": slider("β", 0.1, 5.0, 1.0, step=0.1, fmt=".1f"),
            "rater": choice("rater", RATERS, None),
        },
        buttons={
            "Upper is better": lambda: state.choose(0),
            "Lower is better": lambda: state.choose(1),
            "Let the rater choose 10": decide,
            "Start again": state.restart,
        },
        frames=[
            ("Before any choice", after(None, 1.0)),
            ("Ten choices of the rater in a hurry, β = 1", after("short", 1.0)),
            ("Ten of the careful one, β = 1", after("right", 1.0)),
            ("The careful one again, β = 0.3", after("right", 0.3)),
        ],
        reset=state.restart,
        alt="Above, two answers to a sum, one under the other, to choose from; below, for each of six answers a bar "
        "for its reward and a bar for its probability under the policy.",
    )


def _draw_pair(ax, state):
    ax.set(xlim=(0, 10), ylim=(0, 3))
    ax.set_axis_off()
    ax.text(0.1, 2.6, f"{ASKED}   Which answer is better?", fontsize=11, va="center")
    for row, place in enumerate(state.pair):
        y = 1.75 - 0.95 * row
        word = ("upper", "lower")[row]
        ax.text(0.1, y, word, fontsize=9.5, va="center", color="#5A5A5A")
        ax.text(1.2, y, CANDIDATES[place], fontsize=13, va="center", **MONO)


def _draw_policy(ax, reward, policy):
    ax.set(xlim=(0, 10), ylim=(-0.7, len(CANDIDATES) + 0.25))
    ax.set_axis_off()
    ax.text(4.1, len(CANDIDATES) - 0.05, "reward", fontsize=9.5, va="center")
    ax.text(7.1, len(CANDIDATES) - 0.05, "probability under the policy", fontsize=9.5, va="center")
    largest = max(2.0, reward.abs().max().item())
    for k, candidate in enumerate(CANDIDATES):
        y = len(CANDIDATES) - 1 - k
        right = tasks.is_right(ASKED, candidate)
        ax.text(0.1, y, candidate, fontsize=10, va="center", **MONO)
        ax.text(3.65, y, "✓" if right else "×", fontsize=11, va="center", family="DejaVu Sans")
        ax.barh(y, 1.0 * reward[k].item() / largest, 0.55, left=5.4, color=plotting.GREEN)
        ax.text(6.95, y, f"{reward[k].item():+.1f}", fontsize=9, va="center", ha="right")
        ax.barh(y, 2.2 * policy[k].item(), 0.55, left=7.1, color=plotting.BLUE)
        ax.text(7.2 + 2.2 * policy[k].item(), y, f"{policy[k].item():.2f}", fontsize=9, va="center")
    ax.plot([5.4, 5.4], [-0.5, len(CANDIDATES) - 0.5], color=plotting.INK, linewidth=0.8)
