"""03e_rewards: its exported functions beyond the page's own checks, its panels, its exercises, its seeded faults."""

import copy
import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn as nn

import tools
from aigc_helpers import panels
from aigc_helpers.models import rewards
from aigc_helpers.models.gpt import GPT
from aigc_helpers.tasks import (
    ALPHABET,
    ANSWER_LENGTH,
    ASSISTANT,
    END,
    VOCAB,
    answer_sum,
    draw_sums,
    encode,
    encode_chat,
    is_right,
)
from aigc_helpers.weights import load_model
from tests.marking import assert_marked, run_exercises
from tests.panel_checks import (
    WORDS,
    answers_within,
    assert_readable,
    moved_together,
    picture,
    use_every_control,
)
from tests.seeded_faults import in_notebook, in_panels

NAME = "03e_rewards.ipynb"
# What only the next update of the panel goes by, or looks back at when there is nothing to look back at.
# One step of Answer's temperature draws, from the same random numbers, mostly the same answers.
NOTHING_TO_SEE = {("Answer", "temperature")} | {
    ("Training", name) for name in ("verifier", "group size", "β of KL", "look back", "check box")
}
QUESTION = "7+5+8+6+9+4 ends in?"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Scripted(nn.Module):
    """Writes the texts of a script, one a row, whatever it is asked; END behind those with a "."."""

    context = 128

    def __init__(self, texts):
        super().__init__()
        self.lines = []
        for text in texts:
            line = encode(text.removesuffix("."))
            self.lines.append(line + [END if text.endswith(".") else encode("x")[0]] * 60)
        self.prompt = len(encode_chat(QUESTION))

    def forward(self, tokens, cache=None):
        logits = torch.zeros(*tokens.shape, VOCAB)
        for row, line in enumerate(self.lines):
            for t in range(self.prompt - 1, tokens.shape[1]):
                logits[row, t, line[t - self.prompt + 1]] = 50.0
        return logits


def small_policy(seed=0):
    """A GPT that may be trained in a moment; what it writes makes no sense."""
    torch.manual_seed(seed)
    return GPT(VOCAB, context=128, width=16, num_heads=2, num_blocks=1)


# ---------------------------------------------------------------- sampling and log-probabilities


def test_an_answer_is_all_that_was_written_with_its_end_and_no_more():
    model = Scripted(["in 9.", "7+5=12,in 2."])
    tokens, is_answer, texts = rewards.sample_answers(model, [QUESTION] * 2)
    assert texts == ["in 9", "7+5=12,in 2"]
    for row, text in enumerate(texts):
        written = tokens[row][is_answer[row]].tolist()
        assert written == [*encode(text), END]
        first = is_answer[row].nonzero()[0].item()
        assert tokens[row, first - 1] == ASSISTANT


def test_an_answer_that_never_ends_is_marked_and_not_right():
    _, is_answer, texts = rewards.sample_answers(Scripted(["in 9", "in 9."]), [QUESTION] * 2)
    assert texts[0].startswith("in 9x") and texts[0].endswith("...")
    assert is_answer[0].sum() == ANSWER_LENGTH + 1
    assert not is_right(QUESTION, texts[0]) and is_right(QUESTION, texts[1])


def test_log_probs_are_those_of_the_answers_tokens_and_zero_elsewhere():
    model = small_policy().eval()
    tokens = torch.randint(VOCAB, (3, 12), generator=seeded())
    is_answer = torch.zeros(3, 12, dtype=torch.bool)
    is_answer[0, 5:9] = True
    is_answer[1, 6:] = True
    found = rewards.answer_log_probs(model, tokens, is_answer)
    with torch.no_grad():
        p = model(tokens).log_softmax(-1)
    for row, position in itertools.product(range(3), range(1, 12)):
        want = p[row, position - 1, tokens[row, position]].item() if is_answer[row, position] else 0
        assert found[row, position - 1].item() == pytest.approx(want, abs=0.05)


def test_the_loss_is_the_sum_over_tokens_and_the_mean_over_answers():
    log_probs = torch.tensor([[-1.0, -2.0, 0.0], [-0.5, -0.25, -0.25]])
    advantages = torch.tensor([0.5, -2.0])
    by_hand = -np.mean([0.5 * -3.0, -2.0 * -1.0])
    assert rewards.policy_loss(log_probs, advantages).item() == pytest.approx(by_hand)


def test_grpo_as_computed_by_hand_in_numpy():
    """Our advantages and clipped objective against GRPO written out in NumPy, token by token."""
    random = np.random.default_rng(0)
    marks = (random.random((4, 8)) < 0.5).astype(float)
    ratio = np.exp(0.4 * random.standard_normal((32, 5)))
    spread = marks.std(axis=1, keepdims=True)
    advantages = ((marks - marks.mean(axis=1, keepdims=True)) / (spread + 1e-6)).reshape(32, 1)
    want = np.minimum(ratio * advantages, np.clip(ratio, 0.8, 1.2) * advantages)
    found = rewards.group_advantages(torch.tensor(marks), divide=True).reshape(32, 1)
    np.testing.assert_allclose(found, advantages, rtol=1e-5, atol=1e-7)
    objective = rewards.clipped_objective(torch.tensor(ratio), found.expand(32, 5))
    np.testing.assert_allclose(objective, want, rtol=1e-5, atol=1e-7)


def test_a_group_of_equal_rewards_has_no_advantage_with_or_without_division():
    for divide in (False, True):
        found = rewards.group_advantages(torch.tensor([[1.0] * 8, [0.0] * 8]), divide)
        assert found.abs().max() == 0


# ---------------------------------------------------------------- counting


def test_pass_at_k_by_drawing_all_subsets():
    for n, c, k in ((5, 2, 3), (6, 1, 2), (4, 0, 2), (4, 4, 1), (6, 3, 6)):
        draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
        want = sum(map(any, draws)) / len(draws)
        assert rewards.pass_at_k(c, n, k) == pytest.approx(want)
    with pytest.raises(ValueError, match="k"):
        rewards.pass_at_k(1, 4, 5)


def test_the_mean_of_pass_at_k_counts_each_question_once():
    answers = [["in 9", "in 9"], ["in 1", "in 2"]]
    questions = [QUESTION, QUESTION]
    assert rewards.mean_pass(questions, answers, 1) == 0.5
    assert rewards.mean_pass(questions, answers, 2) == 0.5


def test_the_majority_goes_by_the_last_digit_and_not_by_the_way():
    texts = ["in 3", "7+5=12,in 9", "in 9", "in 3", "7+5=12,2+8=10,in 9"]
    assert rewards.majority(QUESTION, texts) == "in 9"
    assert rewards.majority(QUESTION, ["in 3", "in 9"]) == "in 3"


def test_the_two_ways_are_told_apart():
    right = answer_sum(QUESTION, working=True)
    rows = rewards.two_ways([QUESTION], [[right, "in 1", "in 9", "7+5=12,in 1"]])
    assert rows["with working"]["right"] == 0.5 and rows["a bare digit"]["right"] == 0.5
    assert rows["with working"]["share of the answers"] == 0.5
    assert rows["all"]["characters"] == (len(right) + 4 + 4 + 11) / 4


# ---------------------------------------------------------------- updates


def update(policy, reference=None, seed=0, **settings):
    opt = torch.optim.SGD(policy.parameters(), lr=1.0)
    questions = draw_sums(2, seeded(3))
    return rewards.one_update(policy, opt, questions, seeded(seed), reference=reference, **settings)


def log_prob(policy, question, text):
    tokens = torch.tensor([encode_chat(question, text)])
    is_answer = torch.zeros_like(tokens, dtype=torch.bool)
    is_answer[0, len(question) + 2 :] = True
    with torch.no_grad():
        return rewards.answer_log_probs(policy, tokens, is_answer).sum().item()


def begins_low(question, text):
    """A reward that an untrained policy gets for half of its answers."""
    return bool(text) and text[0] in ALPHABET[: len(ALPHABET) // 2]


def test_what_is_rewarded_becomes_likelier():
    policy = small_policy()
    first = [update(policy, seed=k, verifier=begins_low)["rewarded"] for k in range(12)]
    assert sum(first[-3:]) / 3 > sum(first[:3]) / 3 + 0.15


def test_equal_rewards_change_nothing():
    for always in (True, False):
        policy = small_policy()
        before = copy.deepcopy(policy.state_dict())
        update(policy, verifier=lambda question, text, always=always: always)
        for name, weight in policy.state_dict().items():
            assert torch.equal(weight, before[name]), name


def test_the_leash_leads_back_to_the_reference():
    reference = small_policy().eval().requires_grad_(False)
    policy = copy.deepcopy(reference).requires_grad_(True)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=seeded(1))

    def distance():
        questions = draw_sums(1, seeded(5)) * 64
        tokens, is_answer, _ = rewards.sample_answers(policy, questions, seeded(6))
        with torch.no_grad():
            here = rewards.answer_log_probs(policy, tokens, is_answer).sum(dim=1)
            there = rewards.answer_log_probs(reference, tokens, is_answer).sum(dim=1)
        return (here - there).mean().item()

    before = distance()
    for seed in range(8):
        update(policy, reference, seed, beta=0.05, verifier=lambda question, text: False)
    assert distance() < 0.9 * before


def test_the_verifier_sees_the_question_and_what_was_written_after_it():
    seen = []

    def verifier(question, text):
        seen.append((question, text))
        return False

    update(small_policy(), verifier=verifier)
    questions = draw_sums(2, seeded(3))
    assert [question for question, _ in seen] == [q for q in questions for _ in range(8)]
    assert not any(question in text for question, text in seen)


def test_a_bonus_is_paid_for_every_token():
    policy = small_policy()
    with torch.no_grad():  # END about once in ten tokens, so that lengths differ
        policy.token.weight[END] += 0.5
    settings = {"bonus": 0.05, "verifier": lambda question, text: False}
    lengths = [update(policy, seed=k, **settings)["length"] for k in range(12)]
    assert sum(lengths[-3:]) > sum(lengths[:3])


def test_a_training_leaves_its_start_alone_and_repeats_itself():
    start = small_policy().eval().requires_grad_(False)
    before = copy.deepcopy(start.state_dict())
    settings = {"num_questions": 2, "verifier": begins_low}
    first, log = rewards.reinforce(start, 2, 1, **settings)
    second, _ = rewards.reinforce(start, 2, 1, **settings)
    assert len(log) == 2 and set(log[0]) >= {"rewarded", "right", "with working", "length"}
    for name, weight in start.state_dict().items():
        assert torch.equal(weight, before[name])
        assert torch.equal(first.state_dict()[name], second.state_dict()[name])
    changed = [not torch.equal(first.state_dict()[name], before[name]) for name in before]
    assert any(changed) and not any(weight.requires_grad for weight in first.parameters())


def test_different_answers_are_counted_within_their_group():
    class Two(Scripted):
        def __init__(self):
            super().__init__(["in 9.", "in 9.", "in 1.", "in 9."] * 2)
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, tokens, cache=None):
            return super().forward(tokens, cache) + 0 * self.weight

    policy = Two()
    opt = torch.optim.SGD(policy.parameters(), lr=1.0)
    found = rewards.one_update(policy, opt, [QUESTION] * 2, seeded(), group=4)
    assert found["different"] == 2 and found["right"] == 0.75 and found["length"] == 5


# ---------------------------------------------------------------- the kept models


def test_the_kept_models_show_what_reward_did():
    questions = draw_sums(100, seeded(21), held_out=True)
    found = {}
    for name in ("assistant", "assistant_rewarded"):
        answers = rewards.sample_many(load_model(name), questions, 2, seeded(1))
        found[name] = rewards.two_ways(questions, answers)
    before = found["assistant"]["all"]["right"], found["assistant"]["with working"]
    after = found["assistant_rewarded"]["all"]["right"], found["assistant_rewarded"]["with working"]
    assert before[0] < 0.5 and before[1]["share of the answers"] < 0.5
    assert after[0] > 0.85 and after[1]["share of the answers"] > 0.95


# ---------------------------------------------------------------- panels

MAKERS = {
    "answer": panels.rewards.answer,
    "one_update": panels.rewards.one_update,
    "training": panels.rewards.training,
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_control_of_a_panel_is_seen_and_every_word_is_readable(name):
    panel = MAKERS[name]()
    if name == "training":
        for _ in range(2):
            panel.buttons["One update"].click()
    use_every_control(panel, quiet=QUIET.get(name, ()))
    assert_readable(panel)


# A training shows what its settings did only after the next update.
QUIET = {"training": {"verifier", "group", "beta", "divide"}}


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("name", ["answer", "one_update"])
def test_whatever_a_reader_types_is_answered_or_said(name, words):
    panel = MAKERS[name]()
    panel.set(question=words)
    assert panel.error is None
    if words.strip() not in ("", "To be"):
        assert picture(panel).std() > 0
    assert "right" in panel.status.value or "rewarded" in panel.status.value
    panel.set(question="1+2+3+4+5+6")
    assert panel.error is None and "taking" not in panel.status.value


def test_the_answer_panel_marks_by_the_strict_verifier():
    panel = panels.rewards.answer()
    panel.set(temperature=0.0)
    found = panel.status.value.lower()
    assert "before reward: 0 of 4 right" in found or "before reward: 4 of 4 right" in found
    assert "after reward: 4 of 4 right" in found


def test_answers_come_quickly():
    panel = panels.rewards.answer()
    assert answers_within(panel, 450, temperature=0.5)


def test_an_update_makes_rewarded_answers_likelier():
    panel = panels.rewards.one_update()
    before = picture(panel)
    panel.buttons["Update"].click()
    assert panel.error is None and not np.array_equal(before, picture(panel))
    assert "1 updates so far" in panel.status.value


def test_two_panels_do_not_disturb_each_other():
    small = small_policy().eval()
    make = partial(panels.rewards.answer, {"before": small, "after": small_policy(1).eval()})
    assert moved_together(make) == 0


def test_a_training_goes_on_can_be_looked_back_at_and_starts_again():
    panel = panels.rewards.training()
    for _ in range(3):
        panel.buttons["One update"].click()
    assert panel.error is None and "Update 3" in panel.status.value
    panel.set(back=2)
    assert "Update 1" in panel.status.value
    panel.set(back=0)
    panel.buttons["Start again"].click()
    assert "No update yet" in panel.status.value


# ---------------------------------------------------------------- exercises


def test_the_exercises_can_be_solved():
    assert run_exercises(tools.ROOT / "notebooks" / NAME) == 4


@pytest.mark.exhaustive
def test_the_open_exercise_takes_the_solution_and_refuses_the_start():
    assert_marked(NAME, ANSWERS, only_open=True)


AGREES = (
    "def my_verifier(question, text):\n"
    "    *steps, end = text.split(',')\n"
    "    return count_wrong_steps(text) == 0 and (not steps or steps[-1][-1] == end[-1])\n"
)
ANSWERS = {
    1: (
        AGREES + 'breeds = "bare digits"\n',
        AGREES + 'breeds = "working"\n',
        "my_verifier = is_right\nbreeds = 'working'\n",
        "my_verifier = no_false_step\nbreeds = 'bare digits'\n",
    ),
    2: (
        "def leave_one_out(rewards):\n"
        "    G = rewards.shape[1]\n"
        "    return group_advantages(rewards) * G / (G - 1)\n",
        "def leave_one_out(rewards):\n    return group_advantages(rewards)\n",
    ),
    3: (
        "def zero_variance_share(p, G):\n    return (p**G + (1 - p) ** G).mean()\nat_the_mean = 'too small'\n",
        "def zero_variance_share(p, G):\n    return (p**G + (1 - p) ** G).mean()\nat_the_mean = 'too large'\n",
        "def zero_variance_share(p, G):\n    return p.mean()**G + (1 - p.mean()) ** G\nat_the_mean = 'too small'\n",
    ),
    4: (
        "def clipped_loss(policy, tokens, is_answer, advantages, old_log_probs):\n"
        "    now = answer_log_probs(policy, tokens, is_answer)\n"
        "    ratio = (now - old_log_probs).exp()\n"
        "    gain = clipped_objective(ratio, advantages[:, None])\n"
        "    return -(gain * is_answer[:, 1:]).sum(dim=1).mean()\n",
        "def clipped_loss(policy, tokens, is_answer, advantages, old_log_probs):\n"
        "    now = answer_log_probs(policy, tokens, is_answer)\n"
        "    ratio = (now - now.detach()).exp()\n"
        "    gain = clipped_objective(ratio, advantages[:, None])\n"
        "    return -(gain * is_answer[:, 1:]).sum(dim=1).mean()\n",
        "def clipped_loss(policy, tokens, is_answer, advantages, old_log_probs):\n"
        "    now = answer_log_probs(policy, tokens, is_answer)\n"
        "    ratio = (now - old_log_probs).exp()\n"
        "    gain = clipped_objective(ratio, advantages[:, None])\n"
        "    return -gain.sum(dim=1).mean()\n",
    ),
    5: (
        "def my_training(start, seed):\n"
        "    return reinforce(start, OPEN_UPDATES, seed, rate=5e-4)[0]\n",
        "def my_training(start, seed):\n    return start\n",
    ),
}


def test_marks_refuse_wrong_answers():
    assert_marked(NAME, ANSWERS)


page = partial(in_notebook, NAME)
FAULTS = [
    page(
        "eq. (1): another gradient",
        "(theta.softmax(dim=0) * r).sum()",
        "(theta.softmax(dim=0) * r).mean()",
    ),
    page(
        "eq. (2): the score turned round",
        "return torch.eye(len(pi), dtype=pi.dtype) - pi",
        "return pi - torch.eye(len(pi), dtype=pi.dtype)",
    ),
    page(
        "eq. (3): the reward times the baseline",
        "weighted = (r[y] - baseline)[:, None]",
        "weighted = (r[y] * baseline)[:, None]",
    ),
    page(
        "eq. (4): sign of the advantage",
        "return -(advantages * log_probs.sum(dim=1)).mean()",
        "return (advantages * log_probs.sum(dim=1)).mean()",
    ),
    page(
        "eq. (4): mean over tokens in place of the sum",
        "advantages * log_probs.sum(dim=1)",
        "advantages * log_probs.mean(dim=1)",
    ),
    page(
        "the mask is off by one",
        "return chosen * is_answer[:, 1:]",
        "return chosen * is_answer[:, :-1]",
    ),
    page(
        "the end is no part of the answer",
        "is_after_end = ends.cumsum(dim=1) - ends > 0",
        "is_after_end = ends.cumsum(dim=1) > 0",
        "test_an_answer_is_all_that_was_written_with_its_end_and_no_more",
    ),
    page(
        "an answer without end is taken for whole",
        'texts.append(text if has_ended else text + "...")',
        'texts.append(text if has_ended else text + "")',
        "test_an_answer_that_never_ends_is_marked_and_not_right",
    ),
    page(
        "eq. (5): not centred",
        "advantages = rewards - rewards.mean(dim=1, keepdim=True)",
        "advantages = rewards - 0 * rewards.mean(dim=1, keepdim=True)",
    ),
    page(
        "eq. (5): centred over the batch",
        "rewards.mean(dim=1, keepdim=True)",
        "rewards.mean()",
        "test_a_group_of_equal_rewards_has_no_advantage_with_or_without_division",
    ),
    page(
        "divided by the sample's spread",
        "rewards.std(dim=1, correction=0, keepdim=True)",
        "rewards.std(dim=1, correction=1, keepdim=True)",
    ),
    page(
        "eq. (6): right and wrong swapped",
        "num_wrong = num_answers - num_right",
        "num_wrong = num_right",
        "test_pass_at_k_by_drawing_all_subsets",
    ),
    page(
        "eq. (8): the larger of the two",
        "return torch.minimum(ratio * advantages",
        "return torch.maximum(ratio * advantages",
    ),
    page(
        "eq. (9): the penalty is a gift",
        "reduced = r - beta * (now / pi).log()",
        "reduced = r + beta * (now / pi).log()",
    ),
    page(
        "KL reversed in the update",
        "return beta * (log_probs.detach() - there)",
        "return beta * (there - log_probs.detach())",
        "test_the_leash_leads_back_to_the_reference",
    ),
    page(
        "the reward is read from the prompt, too",
        "float(verifier(q, text)) for q, text in zip(asked, texts)",
        "float(verifier(q, q + text)) for q, text in zip(asked, texts)",
        "test_the_verifier_sees_the_question_and_what_was_written_after_it",
    ),
    page(
        "the start is trained in place",
        "    policy = copy.deepcopy(start).requires_grad_(True)\n    opt = torch.optim.AdamW(policy.parameters(), lr=rate",
        "    policy = copy.copy(start).requires_grad_(True)\n    opt = torch.optim.AdamW(policy.parameters(), lr=rate",
        "test_a_training_leaves_its_start_alone_and_repeats_itself",
    ),
    page(
        "the majority of ways in place of digits",
        "finals = [final_part(question, text) for text in texts]",
        "finals = [(final_part(question, text), text)[1] for text in texts]",
        "test_the_majority_goes_by_the_last_digit_and_not_by_the_way",
    ),
    page(
        "old log-probabilities computed anew",
        "found = answer(few, questions, mask, signs, changed)",
        "found = answer(few, questions, mask, signs, log_probs)",
        "exercises",
    ),
    in_panels(
        "rewards",
        "marks are turned round",
        "return RIGHT if is_right(question, text) else WRONG",
        "return WRONG if is_right(question, text) else RIGHT",
        "test_a_mark_is_a_tick_for_a_right_answer",
    ),
    in_panels(
        "rewards",
        "a step against the advantages",
        "loss = -(advantages * log_probs).mean()",
        "loss = (advantages * log_probs).mean()",
        "test_steps_on_a_group_move_its_answers_by_their_advantages",
    ),
]


def test_a_mark_is_a_tick_for_a_right_answer():
    assert panels.rewards._mark(QUESTION, "in 9") == panels.rewards.RIGHT
    assert panels.rewards._mark(QUESTION, "in 8") == panels.rewards.WRONG


def test_steps_on_a_group_move_its_answers_by_their_advantages():
    state = panels.rewards._Group(load_model("assistant"), 1e-4, 8)
    state.take(QUESTION)
    _, advantages = state.judge(is_right, True, False)
    assert advantages.any(), "the kept model's first group says nothing: choose another seed"
    for _ in range(3):
        state.update(advantages)
    change = state.now - state.before
    assert (advantages * change).sum() > 0
    assert change[advantages > 0].mean() > change[advantages < 0].mean()
    assert math.isfinite(change.sum().item())
