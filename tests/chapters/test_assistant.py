"""03d_assistant: its exported functions beyond the page's own checks, its panels, its exercises, its seeded faults."""


from functools import partial

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import tools
from aigc_helpers import panels, tasks
from aigc_helpers.checks import CheckFailed
from aigc_helpers.models import assistant
from aigc_helpers.models.gpt_beyond import ModernGPT
from aigc_helpers.panels import assistant as drawn
from aigc_helpers.weights import load_model
from tests.marking import run_exercises, run_marks
from tests.notebook_cells import run_cells
from tests.panel_checks import (
    WORDS,
    answers_within,
    check_drawing,
    moved_together,
    picture,
    use_every_control,
)
from tests.seeded_faults import in_notebook, in_panels

NAME = "03d_assistant.ipynb"
# Answers at temperature 0 come out again; without a choice, a reward has nothing that β or a rater could change.
NOTHING_TO_SEE = {(title, "Write again") for title in ("Answer", "Preferred")} | {  # at temperature 0
    ("Preference", name) for name in ("β", "rater", "Let the rater choose 10")
}
SUM = "7+5+8 ends in?"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small_model(seed=0):
    """A tiny network for the alphabet of `tasks`, whose weights are large enough to say something."""
    torch.manual_seed(seed)
    model = ModernGPT(tasks.VOCAB, tasks.CONTEXT, 16, 2, 1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn(weight.shape)
    return model.eval()


# ---------------------------------------------------------------- answers and their loss


def test_only_the_answer_and_its_end_are_counted():
    tokens, is_answer = tasks.encode_chats([SUM, "7+5 ends in?"], ["in 0", "7+5=12,in 2"])
    model = small_model()
    log_p = model(tokens[:, :-1]).log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    counted = []
    for row, (question, answer) in enumerate(((SUM, "in 0"), ("7+5 ends in?", "7+5=12,in 2"))):
        first = len(question) + 2
        counted += log_p[row, first - 1 : first + len(answer)].tolist()
    want = -sum(counted) / len(counted)
    assert assistant.answer_loss(model, tokens, is_answer).item() == pytest.approx(want, rel=1e-4)
    with pytest.raises(ValueError, match="marks no token"):
        assistant.answer_loss(model, tokens, torch.zeros_like(is_answer))


def test_questions_of_different_lengths_are_answered_in_their_order():
    questions = ["7+5 ends in?", SUM, "1+2 ends in?"]

    class Last(nn.Module):  # answers with the digit before " ends in?"
        context = tasks.CONTEXT

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, tokens, cache=None):
            logits = torch.zeros(*tokens.shape, tasks.VOCAB)
            for row, chat in enumerate(tokens.tolist()):
                if chat[-1] == tasks.ASSISTANT:
                    logits[row, -1, chat[-2 - len(tasks.SUM_END)]] = 60.0
                else:
                    logits[row, -1, tasks.END] = 60.0
            return logits

    assert assistant.ask(Last(), questions) == ["5", "8", "2"]


def test_an_answer_that_never_ends_is_not_right():
    class On(nn.Module):
        context = tasks.CONTEXT

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, tokens, cache=None):
            return 60.0 * F.one_hot(torch.full(tokens.shape, tasks.encode("0")[0]), tasks.VOCAB).float()

    (answer,) = assistant.ask(On(), [SUM])
    assert answer == "0" * (tasks.ANSWER_LENGTH + 1) + "…"
    assert assistant.share_right([SUM], [answer]) == 0.0
    assert assistant.share_right([SUM, SUM], ["in 0", "in 1"]) == 0.5


def test_tuning_lowers_the_loss_of_answers_and_replay_that_of_the_plays():
    sums = tasks.draw_sums(200, seeded(), terms=2)
    chats = dict.fromkeys(
        assistant.TURNS, tasks.encode_chats(sums, [tasks.answer_sum(question) for question in sums])
    )
    plays = torch.tensor(tasks.encode("To be, or not to be " * 30)).unfold(0, 33, 1)
    found = {}
    for name, replayed in {"usual": None, "plays": plays}.items():
        torch.manual_seed(0)
        model = ModernGPT(tasks.VOCAB, tasks.CONTEXT, 16, 2, 1)
        assistant.tune(model, chats, 30, plays=replayed)
        assert not model.training
        with torch.no_grad():
            found[name] = assistant.next_token_loss(model, plays[:8]).item()
            assert assistant.answer_loss(model, *chats["sums"]).item() < 3.5
    assert found["plays"] < 0.7 * found["usual"]


def test_tuning_takes_the_optimisers_that_it_is_given():
    sums = tasks.draw_sums(40, seeded(), terms=2)
    chats = dict.fromkeys(
        assistant.TURNS, tasks.encode_chats(sums, [tasks.answer_sum(question) for question in sums])
    )
    model = small_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    assistant.tune(model, chats, 2, opts=[torch.optim.SGD(model.head.parameters(), lr=0.1)])
    changed = [name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])]
    assert changed == ["head.weight"]


@pytest.mark.parametrize(
    ("answer", "works"),
    [
        ("7+5=12,2+8=10,in 0", True),
        ("7+5=13,in 3", True),  # false, but working
        ("in 0", False),
        ("7+5=12,in 22", False),
        ("7+5=12,in ", False),
        ("7+5=12,in 2…", False),
        ("inieiie9,iia", False),
        (",in 2", False),
        ("", False),
    ],
)
def test_working_is_steps_and_then_in_and_a_digit(answer, works):
    assert assistant.shows_working(answer) == works


# ---------------------------------------------------------------- LoRA


def test_lora_beside_every_linear_layer_and_nothing_else_is_trained():
    model = small_model()
    linear = sum(isinstance(part, nn.Linear) for part in model.modules())
    tokens = torch.tensor([tasks.encode_chat(SUM)])
    before = model(tokens)
    loras = assistant.adapt(model, rank=2)
    assert len(loras) == linear
    torch.testing.assert_close(model(tokens), before)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert {id(weight) for weight in trained} == {
        id(weight) for lora in loras for weight in (lora.up, lora.down)
    }
    assert len(assistant.adapt(model, rank=2)) == linear
    with pytest.raises(ValueError, match="has LoRAs of rank 2, not 3"):
        assistant.adapt(model, rank=3)
    with pytest.raises(ValueError, match="needs a linear layer, got Embedding"):
        assistant.LoRA(nn.Embedding(2, 2))


def test_the_scale_counts_and_a_lora_that_is_off_is_the_old_layer():
    torch.manual_seed(0)
    lora = assistant.LoRA(nn.Linear(5, 4), rank=2, scale=3.0)
    nn.init.normal_(lora.up)
    h = torch.randn(6, 5)
    want = lora.layer(h) + 3.0 * h @ lora.down.T @ lora.up.T
    torch.testing.assert_close(lora(h), want)
    lora.on = False
    assert torch.equal(lora(h), lora.layer(h))


# ---------------------------------------------------------------- preferences


def test_an_answers_log_probability_is_a_sum_over_its_tokens_alone():
    model = small_model()
    tokens, is_answer = tasks.encode_chats([SUM, "7+5 ends in?"], ["in 0", "7+5=12,in 2"])
    found = assistant.answer_log_prob(model, tokens, is_answer)
    alone, marks = tasks.encode_chats([SUM], ["in 0"])
    torch.testing.assert_close(found[:1], assistant.answer_log_prob(model, alone, marks), rtol=1e-4, atol=1e-4)
    log_p = model(alone[:, :-1]).log_softmax(-1)[0]
    place = len(SUM) + 1
    written = [*tasks.encode("in 0"), tasks.END]
    want = sum(log_p[place + k, token] for k, token in enumerate(written))
    torch.testing.assert_close(found[0], want, rtol=1e-4, atol=1e-4)


def test_the_reference_is_the_model_without_its_loras_and_they_are_on_again_afterwards():
    model = small_model()
    tokens, is_answer = tasks.encode_chats([SUM], ["in 0"])
    before = assistant.answer_log_prob(model, tokens, is_answer)
    loras = assistant.adapt(model, rank=2)
    for lora in loras:
        nn.init.normal_(lora.up)
    moved = assistant.answer_log_prob(model, tokens, is_answer)
    assert (moved - before).abs().max() > 0.01
    found = assistant.reference_log_prob(model, loras, tokens, is_answer)
    assert torch.equal(found, before.detach()) and not found.requires_grad
    assert torch.equal(assistant.answer_log_prob(model, tokens, is_answer), moved)


def test_dpo_agrees_with_an_independent_computation():
    torch.manual_seed(0)
    chosen, rejected, chosen_ref, rejected_ref = torch.randn(4, 7).double()
    for beta in (0.1, 1.0):
        raised = (chosen / 1 - chosen_ref).numpy(), (rejected - rejected_ref).numpy()
        want = sum(
            F.softplus(torch.tensor(-beta * (a - b))).item() for a, b in zip(*raised, strict=True)
        ) / 7
        found = assistant.dpo_loss(chosen, rejected, chosen_ref, rejected_ref, beta)
        assert found.item() == pytest.approx(want, rel=1e-9)
    with pytest.raises(ValueError, match="beta must be a finite number above 0"):
        assistant.dpo_loss(chosen, rejected, chosen_ref, rejected_ref, 0.0)


def test_training_on_pairs_raises_what_the_rater_chose():
    sums = tasks.draw_sums(50, seeded(), terms=2)
    log_p = {}
    for prefer_working in (False, True):
        model = small_model()
        raised = assistant.train_on_pairs(model, sums, prefer_working, 15, rate=1e-2)
        assert len(raised["chosen"]) == len(raised["rejected"]) == len(raised["loss"]) == 15
        assert raised["loss"][0] == pytest.approx(0.6931, abs=1e-3) and raised["loss"][-1] < 0.6
        assert raised["chosen"][0] == pytest.approx(0.0, abs=1e-5)
        assert raised["chosen"][-1] - raised["rejected"][-1] > 1.0
        answers = [tasks.answer_sum(question, working=True) for question in sums]
        with torch.no_grad():
            log_p[prefer_working] = assistant.answer_log_prob(model, *tasks.encode_chats(sums, answers)).mean()
    assert log_p[True] > log_p[False] + 1.0


def test_the_best_policy_has_no_better_neighbour():
    reference = torch.tensor([0.5, 0.3, 0.2]).double()
    reward = torch.tensor([1.0, 2.0, 0.0]).double()
    for beta in (0.3, 1.0, 4.0):
        best = assistant.best_policy(reference, reward, beta)
        top = assistant.objective(best, reference, reward, beta)
        for seed in range(20):
            other = (best.log() + 0.1 * torch.randn(3, generator=seeded(seed)).double()).softmax(0)
            assert assistant.objective(other, reference, reward, beta) < top


# ---------------------------------------------------------------- exercises


@pytest.fixture(scope="module")
def page_space():
    """What the set-up and the exported cells of the page define, and its marks."""
    space = run_cells(NAME, ("setup", "export"))
    run_marks(NAME, space)
    return space


WRONG = {
    1: lambda question, answer: [False] * (len(question) + 2) + [True] * len(answer) + [False],
    2: lambda p_bc, p_ab: p_bc * p_ab,
    3: lambda reference, reward, beta: (assistant.best_policy(reference, reward, beta) * reward).sum() / beta,
    4: lambda chosen, rejected, chosen_ref, rejected_ref: (chosen > rejected).float().mean(),
    5: lambda out, inside, rank: (torch.zeros(out, rank), torch.zeros(rank, inside)),
}


@pytest.mark.parametrize("number", WRONG)
def test_marks_refuse_wrong_answers(page_space, capsys, number):
    page_space["exercise"]("Exercise", WRONG[number], page_space[f"mark_{number}"])
    assert capsys.readouterr().out.startswith("Exercise: not yet - ")


def test_the_exercises_can_be_solved():
    assert run_exercises(tools.ROOT / "notebooks" / NAME) == 5


@pytest.mark.exhaustive
def test_the_open_exercise_takes_the_solution_and_refuses_dpo():
    assert run_exercises(tools.ROOT / "notebooks" / NAME, only_open=True) == 1
    space = run_cells(NAME, ("setup", "export"))
    run_marks(NAME, space)
    with pytest.raises(CheckFailed, match="50 below"):
        space["mark_6"](assistant.dpo)


# ---------------------------------------------------------------- panels and pictures

MAKERS = {
    "answer": panels.assistant.answer,
    "yours": lambda: panels.assistant.answer({drawn.PLAYS: small_model(0), "yours": small_model(1)}),
    "preference": panels.assistant.preference,
}
every_panel = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@every_panel
def test_every_control_draws_once_and_changes_the_picture(make):
    panel = make()
    if "rater" in panel.controls:  # it is the button beside it that asks the rater
        panel.set(rater="short")
        panel.buttons["Let the rater choose 10"].click()
        del panel.controls["rater"]
    else:
        panel.set(temperature=1.0)
    use_every_control(panel)


@every_panel
def test_each_panel_owns_its_state_and_its_storyboard_is_the_same_each_time(make):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = panels.assistant.preference()._storyboard if make is MAKERS["preference"] else make()._storyboard
    assert make()._storyboard == first
    if make is not MAKERS["yours"]:  # its networks are drawn by the test itself
        assert torch.equal(torch.get_rng_state(), state), "the page's random numbers were drawn from"


@every_panel
@pytest.mark.exhaustive
def test_two_panels_moved_at_once_draw_what_each_draws_alone(make):
    assert moved_together(make) == 0


def test_a_move_is_answered_at_once():
    panel = MAKERS["answer"]()
    for place in (2, 1):
        assert answers_within(panel, 150, place=place)
    panel = MAKERS["preference"]()
    for beta in (0.3, 3.0):
        assert answers_within(panel, 150, beta=beta)


@pytest.mark.parametrize("words", WORDS)
def test_a_readers_words_give_a_picture_and_at_most_a_remark(words):
    panel = MAKERS["yours"]()
    panel.set(question=words)
    assert panel.error is None
    assert "<img src=x" not in panel.status.value
    assert ("Left out" in panel.status.value) == bool(set(words) - set(tasks.ALPHABET))
    assert ("Cut to 80" in panel.status.value) == (len(words) > 1000)


def test_the_panel_marks_an_answer_and_says_what_would_be_right():
    panel = MAKERS["yours"]()
    panel.set(question=SUM)
    assert "Not right: it should be in 0" in panel.status.value
    panel.set(question="How are you?")
    assert "nobody can mark this one" in panel.status.value


@pytest.mark.parametrize("question", drawn.QUESTIONS[1:])
def test_the_kept_model_answers_the_panels_own_text_and_scene(question):
    assert tasks.is_right(question, assistant.ask(load_model("assistant"), [question])[0])


def test_the_network_without_chats_goes_on_from_the_bare_question():
    stage = drawn._Stage(small_model(), knows_chats=False)
    tokens, p = drawn.write_answer(stage, "ab", 0.0, seeded())
    want = assistant.generate(stage.model, torch.tensor([tasks.encode("ab")]), drawn.PLAYS_LENGTH, temperature=0)
    assert tokens == want[0, 2:].tolist() and len(tokens) == drawn.PLAYS_LENGTH
    assert torch.equal(p.argmax(-1), want[0, 2:])


def test_an_unlikely_token_has_the_darker_ground():
    assert drawn._shade(1.0) == (1.0, 1.0, 1.0)
    red, green, blue = drawn._shade(0.0)
    assert red > green > blue and drawn._shade(0.5)[2] > blue


def test_write_again_draws_another_answer_at_a_temperature_and_the_same_without():
    panel = MAKERS["yours"]()
    before = picture(panel)
    panel.buttons["Write again"].click()
    assert (picture(panel) == before).all()
    panel.set(temperature=1.5)
    before = picture(panel)
    panel.buttons["Write again"].click()
    assert not (picture(panel) == before).all()


def test_a_panel_keeps_the_model_it_was_given():
    model = small_model()
    panel = panels.assistant.answer({"yours": model})
    before = panel.picture.value
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    panel.redraw()
    assert panel.picture.value == before


def test_the_raters_choose_what_their_names_say():
    right, wrong = drawn.CANDIDATES.index("in 0"), drawn.CANDIDATES.index("in 1")
    worked = drawn.CANDIDATES.index("7+5=12,2+8=10,in 0")
    false = drawn.CANDIDATES.index("7+5=13,3+8=11,in 1")
    assert drawn.rate("right", right, wrong) == 0 and drawn.rate("right", wrong, worked) == 1
    assert drawn.rate("right", right, worked) is None
    assert drawn.rate("short", worked, wrong) == 1
    assert drawn.rate("working", wrong, false) == 1


def test_the_reward_fits_the_choices_as_bradley_and_terry_have_it():
    torch.manual_seed(0)
    true = torch.tensor([1.0, -0.5, 0.3])
    D = torch.randn(4000, 3)
    wins = torch.rand(4000) < torch.sigmoid(D @ true)
    w = drawn.fit_reward(torch.where(wins[:, None], D, -D).tolist())
    torch.testing.assert_close(w, true, rtol=0, atol=0.12)
    assert drawn.fit_reward([]).tolist() == [0, 0, 0]


def test_the_policy_follows_the_rater_and_a_small_beta_goes_all_the_way():
    def right_after(rater, beta):
        panel = panels.assistant.preference()
        panel.set(rater=rater, beta=beta)
        panel.buttons["Let the rater choose 10"].click()
        return int(panel.status.value.partition("Policy right: ")[2].partition(" %")[0])

    assert right_after("right", 1.0) > 80 > 60 > right_after("short", 1.0)
    assert right_after("right", 0.2) >= right_after("right", 5.0) + 10


def test_choosing_by_hand_counts_the_pair_that_was_shown():
    panel = panels.assistant.preference()
    panel.buttons["Upper is better"].click()
    assert panel.status.value.count("1 choices") == 1
    state = drawn._Choosing()
    first, second = state.pair
    state.choose(1)
    want = torch.tensor(drawn.features_of(drawn.ASKED, drawn.CANDIDATES[second])) - torch.tensor(
        drawn.features_of(drawn.ASKED, drawn.CANDIDATES[first])
    )
    torch.testing.assert_close(torch.tensor(state.differences[0]), want)
    panel.buttons["Start again"].click()
    assert "0 choices" in panel.status.value


def test_without_a_rater_the_panel_says_that_none_is_chosen():
    panel = panels.assistant.preference()
    panel.buttons["Let the rater choose 10"].click()
    assert "No rater is chosen" in panel.status.value
    panel.set(rater="right")
    assert "No rater" not in panel.status.value
    panel.buttons["Let the rater choose 10"].click()
    assert "10 choices" in panel.status.value


CURVES = {"chosen": [0.0, 1.0, 2.0], "rejected": [0.0, -1.0, -4.0]}
PICTURES = {
    "diagram": panels.assistant.assistant_diagram,
    "chat": lambda: panels.assistant.chat_boxes("7+5 ends in?", "in 2"),
    "bars": lambda: panels.assistant.policy_bars(["A", "B"], {"reference": [0.5, 0.5], "other": [0.1, 0.9]}),
    "curves": lambda: panels.assistant.likelihood_curves({"one": CURVES, "other": CURVES}),
    "most": lambda: panels.assistant.likelihood_curves({"one": CURVES, "other": CURVES}, {"one": 1.5, "other": 1.8}),
}


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
def test_a_picture_is_drawn_whole_and_can_be_read(draw):
    check_drawing(draw)


# ---------------------------------------------------------------- seeded faults

page = partial(in_notebook, NAME)
panel = partial(in_panels, "assistant")

FAULTS = [
    page("eq. (1): the question counts, too", "asked = is_answer[:, 1:]\n", "asked = is_answer[:, 1:] | True\n"),
    page("eq. (1): the mask is off by one", "asked = is_answer[:, 1:]\n", "asked = is_answer[:, :-1]\n"),
    page(
        "an answer that never ended may be right",
        'text if has_ended else text + "…"',
        "text",
        "test_an_answer_that_never_ends_is_not_right",
    ),
    page(
        "answers come back in the order of their lengths",
        "for place, row in zip(places, written",
        "for place, row in zip(range(len(places)), written",
        "test_questions_of_different_lengths_are_answered_in_their_order",
    ),
    page("eq. (8): the scale is left out", "self.layer.weight + self.scale * self.up", "self.layer.weight + self.up"),
    page("eq. (8): both thin matrices start at random", "torch.zeros(layer.out_features, rank)", "torch.randn(layer.out_features, rank)"),
    page(
        "a LoRA that is off stays on",
        "@ self.up.T if self.on else out",
        "@ self.up.T",
        "test_the_scale_counts_and_a_lora_that_is_off_is_the_old_layer",
    ),
    page("eq. (3): the chosen answer loses", "F.logsigmoid(chosen - rejected)", "F.logsigmoid(rejected - chosen)"),
    page("eq. (4): the KL is reversed", "(policy * (policy.log() - reference.log())).sum()", "(reference * (reference.log() - policy.log())).sum()"),
    page("eq. (5): β multiplies", "reward / beta).softmax", "reward * beta).softmax", "test_the_best_policy_has_no_better_neighbour"),
    page("eq. (6): chosen and rejected are swapped", "(chosen - chosen_ref) - (rejected - rejected_ref)\n    return -F", "(rejected - rejected_ref) - (chosen - chosen_ref)\n    return -F"),
    page("eq. (6): the reference is forgotten", "(chosen - chosen_ref) - (rejected - rejected_ref)\n    return -F", "(chosen - 0 * chosen_ref) - (rejected - 0 * rejected_ref)\n    return -F"),
    page(
        "an answer's log-probability counts the question",
        "(of_tokens * is_answer[:, 1:]).sum(dim=1)",
        "of_tokens.sum(dim=1) + 0 * is_answer.sum()",
        "test_an_answers_log_probability_is_a_sum_over_its_tokens_alone",
    ),
    page(
        "the reference is the policy of now",
        "        lora.on = False\n    log_p",
        "        lora.on = True\n    log_p",
        "test_the_reference_is_the_model_without_its_loras_and_they_are_on_again_afterwards",
    ),
    page(
        "the rater's choice is turned round",
        "tasks.answer_sum(question, prefer_working) for",
        "tasks.answer_sum(question, True) for",
        "test_training_on_pairs_raises_what_the_rater_chose",
    ),
    page(
        "replay takes the chats",
        "next_token_loss(model, plays[some])",
        "0 * next_token_loss(model, plays[some])",
        "test_tuning_lowers_the_loss_of_answers_and_replay_that_of_the_plays",
    ),
    page(
        "exercise 4 takes an accuracy without a reference",
        "answer(chosen, rejected, *refs), 0.5)",
        "answer(chosen, rejected, *refs), 0.75)",
        "test_marks_refuse_wrong_answers",
    ),
    panel("the panel's reward goes the other way", "w = w - torch.linalg.solve", "w = w + torch.linalg.solve", "test_the_reward_fits_the_choices_as_bradley_and_terry_have_it"),
    panel("the panel's policy multiplies by β", "reward / beta).softmax", "reward * beta).softmax", "test_the_policy_follows_the_rater_and_a_small_beta_goes_all_the_way"),
    panel("sure tokens are orange", "a + p * (b - a)", "b + p * (a - b)", "test_an_unlikely_token_has_the_darker_ground"),
]
