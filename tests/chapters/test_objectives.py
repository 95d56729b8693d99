"""03c_objectives: its exported functions at their limits, its panels, its exercises, its seeded faults."""

import itertools
import math
from functools import partial

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import tools
from aigc_helpers import panels
from aigc_helpers.checks import CheckFailed
from aigc_helpers.models import objectives
from aigc_helpers.models.gpt import GPT, Characters, future_share
from tests.causal_models import seeded
from tests.marking import run_exercises, run_marks
from tests.notebook_cells import run_cells
from tests.panel_checks import (
    answers_within,
    check_drawing,
    moved_together,
    picture,
    use_every_control,
)
from tests.seeded_faults import in_notebook, in_panels

NAME = "03c_objectives.ipynb"
# In the browser: the window of the network is full, so what is typed behind it changes nothing.
NOTHING_TO_SEE = {"text"}
VOCAB = 11


def make_model(causal=False, context=16):
    torch.manual_seed(0)
    return objectives.Backbone(VOCAB, context, 12, 2, 2, causal).eval()


def some_tokens(n=4, length=16):
    return torch.randint(VOCAB, (n, length), generator=seeded())


# ---------------------------------------------------------------- the network


def test_only_the_causal_network_is_blind_to_the_right():
    x = some_tokens(1)
    assert future_share(make_model(causal=True), x[0]) == 0
    assert future_share(make_model(), x[0]) > 0.05
    changed = x.clone()
    changed[0, 9] = (changed[0, 9] + 1) % VOCAB
    with torch.no_grad():
        moved = (make_model(True)(changed) - make_model(True)(x)).abs().sum(-1)[0]
        both = (make_model()(changed) - make_model()(x)).abs().sum(-1)[0]
    assert moved[:9].max() == 0 and moved[9:].min() > 0
    assert both.min() > 0


@pytest.mark.parametrize("causal", [False, True])
def test_the_entrance_reads_the_letters_at_its_offsets_and_no_others(causal):
    model = make_model(causal)
    x = some_tokens(1)
    with torch.no_grad():
        before = model.embed(x)
        for place in range(16):
            changed = x.clone()
            changed[0, place] = (changed[0, place] + 1) % VOCAB
            moved = (model.embed(changed) - before).abs().sum(-1)[0] > 0
            want = {place} | {place - offset for offset in model.offsets}
            assert set(moved.nonzero()[:, 0].tolist()) == {k for k in want if 0 <= k < 16}


def test_both_kinds_have_the_same_number_of_weights():
    sizes = [sum(w.numel() for w in make_model(causal).parameters()) for causal in (False, True)]
    assert sizes[0] == sizes[1]


def test_the_mask_gets_no_logit_and_the_head_is_the_embedding():
    model = make_model()
    assert model(some_tokens()).shape == (4, 16, VOCAB)
    h = torch.randn(1, 3, 12, generator=seeded())
    torch.testing.assert_close(model.read_out(h), model.norm(h) @ model.token.weight[:VOCAB].T)


@pytest.mark.parametrize("length", [0, 17])
def test_a_window_that_does_not_fit_is_refused(length):
    with pytest.raises(ValueError, match="a window must have 1 to 16 tokens"):
        make_model()(torch.zeros(1, length).long())


# ---------------------------------------------------------------- losses


class Spy(nn.Module):
    """Remembers what it was shown; gives uniform logits, and a logit of 1 for yes."""

    mask = VOCAB
    context = 16

    def forward(self, tokens):
        self.shown = tokens
        return torch.zeros(*tokens.shape, VOCAB)

    def yes_or_no(self, tokens):
        self.shown = tokens
        return torch.ones(tokens.shape)


def test_next_nll_is_the_cost_of_each_letter_after_those_before_it():
    model = make_model(causal=True)
    x = some_tokens()
    with torch.no_grad():
        nll = objectives.next_nll(model, x)
        first = model(torch.full((1, 1), VOCAB))[0, 0].log_softmax(0)
        later = model(torch.tensor([[VOCAB, *x[0, :5].tolist()]]))[0, 5].log_softmax(0)
    torch.testing.assert_close(nll[0, 0], -first[x[0, 0]])
    torch.testing.assert_close(nll[0, 5], -later[x[0, 5]])


def test_next_factors_of_all_texts_add_up_to_one_and_gap_factors_do_not():
    torch.manual_seed(0)
    texts = torch.tensor(list(itertools.product(range(3), repeat=4)))
    causal = objectives.Backbone(3, 4, 12, 2, 1, causal=True)
    both = objectives.Backbone(3, 4, 12, 2, 1)
    with torch.no_grad():
        for weight in both.parameters():
            weight *= 3
        total = (-objectives.next_nll(causal, texts).sum(1)).exp().sum().item()
        factors = 0
        for i in range(4):
            hidden = torch.zeros_like(texts, dtype=torch.bool)
            hidden[:, i] = True
            factors = factors - objectives.gap_nll(both, texts, hidden)[:, i]
    assert total == pytest.approx(1.0, abs=1e-4)
    assert abs(factors.exp().sum().item() - 1) > 0.01


def test_gaps_are_shown_as_the_mask_and_letters_as_they_are():
    spy = Spy()
    x = some_tokens()
    hidden = torch.rand(x.shape, generator=seeded(1)) < 0.4
    nll = objectives.gap_nll(spy, x, hidden)
    assert (spy.shown[hidden] == VOCAB).all() and torch.equal(spy.shown[~hidden], x[~hidden])
    torch.testing.assert_close(nll, torch.full(x.shape, math.log(VOCAB)))


def test_masked_loss_hides_its_share_and_at_least_one():
    spy = Spy()
    objectives.masked_loss(spy, some_tokens(200), seeded())
    assert 0.12 < (spy.shown == VOCAB).float().mean() < 0.18
    loss = objectives.masked_loss(spy, some_tokens(1, 2), seeded(), share=0.0)
    assert (spy.shown == VOCAB).sum() == 1 and loss.item() == pytest.approx(math.log(VOCAB))


def test_masked_loss_takes_the_hidden_letters_only():
    class Half(Spy):
        def forward(self, tokens):
            known = (tokens != VOCAB)[..., None] * 50.0 * F.one_hot(tokens % VOCAB, VOCAB)
            return known + super().forward(tokens)

    assert objectives.masked_loss(Half(), some_tokens(), seeded()).item() == pytest.approx(
        math.log(VOCAB)
    )


def test_masked_loss_is_a_mean_over_the_batchs_hidden_letters():
    class Dear(Spy):
        def forward(self, tokens):
            logits = torch.zeros(*tokens.shape, VOCAB)
            logits[: len(tokens) // 4, :, 0] = 3.0
            return logits

    x = torch.ones(40, 16).long()
    hidden = torch.rand(x.shape, generator=seeded()) < 0.15
    costs = torch.full((40,), math.log(VOCAB))
    costs[:10] = math.log(VOCAB - 1 + math.exp(3))
    want = sum(m * cost for m, cost in zip(hidden.sum(1), costs, strict=True)) / hidden.sum()
    assert objectives.masked_loss(Dear(), x, seeded()).item() == pytest.approx(want.item(), rel=1e-5)


def test_false_pairs_have_another_rows_second_half():
    x = torch.arange(40)[:, None].expand(40, 8)
    joined, true = objectives.join_halves(x, seeded())
    assert (joined[:, :4] == x[:, :4]).all()
    assert torch.equal((joined == x).all(dim=1), true)
    assert (joined[~true, 4:] == (x[~true, 4:] - 1) % 40).all()
    assert 8 < true.sum() < 32


def test_the_sentence_loss_asks_yes_of_true_pairs():
    x = torch.arange(40)[:, None].expand(40, 8)
    _, true = objectives.join_halves(x, seeded())
    share = true.float().mean().item()
    want = share * math.log(1 + math.exp(-1)) + (1 - share) * math.log(1 + math.e)
    assert objectives.sentence_loss(Spy(), x, seeded()).item() == pytest.approx(want, rel=1e-4)


def test_replaced_letters_are_those_that_differ():
    x = some_tokens(300)
    changed, false = objectives.replace_letters(x, seeded())
    assert torch.equal(false, changed != x)
    assert 0.1 < false.float().mean() < 0.15
    want = F.binary_cross_entropy_with_logits(torch.ones(x.shape), false.float())
    torch.testing.assert_close(objectives.replaced_loss(Spy(), x, seeded()), want)


def test_times_are_one_in_each_part_and_never_zero():
    t = objectives.draw_times(64, seeded())
    assert t.shape == (64, 1)
    parts = (t[:, 0] * 64).ceil()
    assert torch.equal(parts.sort().values, torch.arange(1.0, 65.0)) and t.min() > 0 and t.max() <= 1
    assert not torch.equal(parts, parts.sort().values), "a time must not depend on the row"


def test_the_diffusion_loss_of_uniform_answers_is_log_v_on_average():
    x = some_tokens(512)
    found = [objectives.diffusion_loss(Spy(), x, seeded(k)).item() for k in range(20)]
    assert sum(found) / 20 == pytest.approx(math.log(VOCAB), rel=0.03)


def test_exactly_so_many_are_hidden_and_each_position_as_often():
    x = torch.zeros(4000, 8)
    number = torch.arange(4000) % 9
    hidden = objectives.hide_exactly(x, number, seeded())
    assert torch.equal(hidden.sum(1), number)
    assert (hidden.float().mean(0) - 0.5).abs().max() < 0.03


def test_the_bound_of_uniform_answers_is_log_v():
    bound, error, counts, costs = objectives.estimate_bound(Spy(), some_tokens(64), 3, seeded())
    assert bound == pytest.approx(math.log(VOCAB), rel=1e-5) and error < 1e-5
    assert counts.shape == costs.shape == (3, 64)
    assert torch.equal(counts.sort(dim=1).values[0], torch.arange(1, 17).repeat_interleave(4))


def test_the_loss_by_numbers_of_gaps_estimates_the_same_bound_and_can_be_trained():
    model = make_model()
    x = some_tokens(256)
    bound, error, *_ = objectives.estimate_bound(model, x, 8, seeded())
    found = torch.stack([objectives.gap_count_loss(model, x, seeded(k)) for k in range(8)])
    assert found.requires_grad
    assert found.mean().item() == pytest.approx(bound, abs=0.05 + 4 * error)


def test_a_cost_in_one_order_is_the_product_of_its_answers():
    model = make_model()
    x = some_tokens(3)
    order = torch.rand(x.shape, generator=seeded(2)).argsort(1)
    found = objectives.cost_in_order(model, x, order)
    want = torch.zeros(3)
    with torch.no_grad():
        for row in range(3):
            hidden = torch.ones(1, 16, dtype=torch.bool)
            for position in order[row]:
                nll = objectives.gap_nll(model, x[row : row + 1], hidden)
                want[row] += nll[0, position]
                hidden[0, position] = False
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


def test_the_bound_of_three_letters_is_the_mean_over_orders():
    joint = torch.rand(2, 2, 2, generator=seeded()).double()
    joint = joint / joint.sum()
    table = objectives.exact_table(joint)
    noise = torch.randn(table.shape, generator=seeded(1)).double()
    wrong = (table.clamp_min(1e-9).log() + noise).softmax(-1)
    words = list(itertools.product((0, 1), repeat=3))
    want = 0.0
    for word in words:
        for order in itertools.permutations(range(3)):
            context = [2, 2, 2]
            for i in order:
                want -= wrong[tuple(context)][i, word[i]].log().item() / (6 * 8)
                context[i] = word[i]
    x = torch.tensor(words).repeat(3000, 1)[torch.randperm(24_000, generator=seeded())]
    model = objectives.TableModel(wrong)
    bound, *_ = objectives.estimate_bound(model, x, 4, seeded())
    assert 3 * bound == pytest.approx(want, rel=0.02)
    estimates = [objectives.diffusion_loss(model, x, seeded(k)).item() for k in range(4)]
    assert 3 * sum(estimates) / 4 == pytest.approx(want, rel=0.03)


def test_how_many_are_hidden_does_not_depend_on_the_row():
    class ByRow(Spy):
        def forward(self, tokens):
            logits = torch.zeros(*tokens.shape, VOCAB)
            logits[len(tokens) // 2 :, :, 0] = 50.0
            return logits

    x = torch.zeros(400, 16).long()
    _, _, counts, costs = objectives.estimate_bound(ByRow(), x, 20, seeded())
    for part in (counts <= 2, counts > 14):
        assert costs[part].mean().item() == pytest.approx(math.log(VOCAB) / 2, rel=0.15)


def test_a_context_that_never_occurs_gives_even_answers():
    coins = torch.zeros(2, 2, 2)
    coins[0, 0, 0] = coins[1, 1, 1] = 0.5
    table = objectives.exact_table(coins)
    assert table[0, 1, 2, 2].tolist() == [0.5, 0.5]
    assert table[0, 2, 2, 1].tolist() == [1, 0]
    assert objectives.TableModel(table)(torch.tensor([[2, 2, 2]])).isfinite().all()


# ---------------------------------------------------------------- samplers


class Alphabet(nn.Module):
    """Sure that position i holds letter i; the surer the further right it is."""

    mask = VOCAB
    context = 8

    def forward(self, tokens):
        position = torch.arange(tokens.shape[1])
        sureness = 5.0 + position[:, None]
        logits = sureness * F.one_hot(position % VOCAB, VOCAB)
        return logits.expand(len(tokens), -1, -1)


@pytest.mark.parametrize("steps", [1, 3, 8, 20])
@pytest.mark.parametrize("ordering", objectives.ORDERINGS)
def test_every_gap_is_filled_and_what_was_given_stays(steps, ordering):
    tokens = torch.full((5, 8), VOCAB)
    tokens[:, 3] = 9
    tokens[4] = 1
    written, when = objectives.unmask(Alphabet(), tokens, steps, seeded(), ordering)
    assert (written != VOCAB).all() and (written[:, 3][:4] == 9).all() and (written[4] == 1).all()
    assert (when[tokens != VOCAB] == 0).all()
    assert (when[:4][tokens[:4] == VOCAB] >= 1).all() and when.max() <= steps
    assert (tokens[0, 0] == VOCAB).all(), "the reader's tokens were changed"


def test_the_orders_are_what_their_names_say():
    tokens = torch.full((1, 8), VOCAB)
    def steps_of(ordering):
        return objectives.unmask(Alphabet(), tokens, 8, seeded(), ordering)[1][0].tolist()

    assert steps_of("from the left") == [1, 2, 3, 4, 5, 6, 7, 8]
    assert steps_of("from the right") == [8, 7, 6, 5, 4, 3, 2, 1]
    assert steps_of("surest first") == [8, 7, 6, 5, 4, 3, 2, 1]
    assert sorted(steps_of("random")) == [1, 2, 3, 4, 5, 6, 7, 8] != steps_of("random")


def test_the_likeliest_draw_is_kept_first():
    p = torch.tensor([[[0.9, 0.1], [0.6, 0.4], [0.7, 0.3]]])
    drawn = torch.tensor([[1, 0, 0]])
    hidden = torch.ones(1, 3, dtype=torch.bool)
    rank = objectives.rank_gaps(p, hidden, "likeliest draw first", None, drawn)
    assert rank.tolist() == [[2, 1, 0]]
    assert objectives.rank_gaps(p, hidden, "surest first", None).tolist() == [[0, 2, 1]]


def test_gaps_are_spread_evenly_over_the_evaluations():
    tokens = torch.full((1, 10), VOCAB)
    _, when = objectives.unmask(Spy(), tokens, 4, seeded())
    assert when[0].bincount(minlength=5).tolist() == [0, 3, 3, 2, 2]


def test_temperature_zero_takes_the_likeliest():
    tokens = torch.full((3, 8), VOCAB)
    written, _ = objectives.unmask(Alphabet(), tokens, 2, seeded(), temperature=0)
    assert (written == torch.arange(8)).all()


def test_a_wrong_order_and_no_evaluation_are_refused():
    tokens = torch.full((1, 4), VOCAB)
    with pytest.raises(ValueError, match="ordering must be one of random, from the left"):
        objectives.unmask(Spy(), tokens, 2, seeded(), "backwards")
    with pytest.raises(ValueError, match="num_steps must be 1 or above, got 0"):
        objectives.unmask(Spy(), tokens, 0, seeded())


def test_the_threshold_fills_all_that_is_sure_and_at_least_one():
    tokens = torch.full((1, 8), VOCAB)
    written, evaluations = objectives.unmask_sure(Alphabet(), tokens, 0.5, seeded())
    assert evaluations == 1 and (written != VOCAB).all()
    _, evaluations = objectives.unmask_sure(Alphabet(), tokens, 1.0, seeded())
    assert evaluations == 8


def test_the_threshold_counts_each_windows_evaluations_and_can_take_the_likeliest():
    tokens = torch.full((3, 8), VOCAB)
    tokens[1, 2:] = 0
    tokens[2] = 0
    written, evaluations = objectives.unmask_sure(Alphabet(), tokens, 1.0, seeded(), temperature=0)
    assert evaluations.tolist() == [8, 2, 0]
    assert written[0].tolist() == list(range(8)) and (written[2] == 0).all()


def test_scores_of_samples_by_hand():
    alphabet = list("ab \n")
    samples = torch.tensor([[2, 0, 1, 2, 1, 1, 2, 0]])  # " ab bb a": the last word is cut off
    torch.manual_seed(0)
    judge = GPT(4, 8, 8, 2, 1).eval()
    found = objectives.judge_samples(samples, judge, alphabet, {"ab"})
    with torch.no_grad():
        want = F.cross_entropy(judge(samples[:, :-1])[0], samples[0, 1:]).item()
    assert found["judge's nats"] == pytest.approx(want, rel=1e-5)
    assert found["real words"] == 0.5
    p = [2 / 8, 3 / 8, 3 / 8]
    entropy = -sum(share * math.log(share) for share in p)
    assert found["letters' entropy"] == pytest.approx(entropy, rel=1e-4)


def test_words_at_the_ends_are_left_out():
    assert objectives.words_of("ing The cat's tai") == ["the", "cat", "s"]
    assert objectives.words_of("one") == []


# ---------------------------------------------------------------- filling in


def test_a_letter_is_predicted_from_what_may_be_seen():
    spy = Spy()
    x = some_tokens()
    log_p = objectives.letter_log_probs(spy, x, 5)
    assert (spy.shown[:, 5] == VOCAB).all() and torch.equal(spy.shown[:, 6:], x[:, 6:])
    assert log_p.shape == (4, VOCAB)
    objectives.letter_log_probs(spy, x, 5, see_right=False)
    assert (spy.shown[:, 5:] == VOCAB).all() and torch.equal(spy.shown[:, :5], x[:, :5])


def test_rescoring_is_bayes_rule_over_completed_windows():
    model = make_model(causal=True)
    x = some_tokens(2)
    found = objectives.rescore(model, x, 7)
    totals = []
    for letter in range(VOCAB):
        tried = x.clone()
        tried[:, 7] = letter
        with torch.no_grad():
            totals.append((-objectives.next_nll(model, tried).sum(1)).double().exp())
    p = torch.stack(totals, 1)
    torch.testing.assert_close(found.exp().double(), p / p.sum(1, keepdim=True), rtol=1e-3, atol=1e-6)


def test_training_a_filler_lowers_its_bound():
    text = torch.arange(600) % 5
    torch.manual_seed(0)
    model = objectives.Backbone(5, 16, 16, 2, 1)
    opt = torch.optim.AdamW(model.parameters(), lr=1e-2)
    windows = text.unfold(0, 16, 16)
    before = objectives.estimate_bound(model, windows, 2, seeded())[0]
    trained = objectives.train_filler(model, opt, text, 60, 0)
    assert not trained.training
    assert objectives.estimate_bound(trained, windows, 2, seeded())[0] < 0.6 * before


# ---------------------------------------------------------------- exercises


@pytest.fixture(scope="module")
def page_space():
    """What the set-up and the exported cells of the page define, and its marks."""
    space = run_cells(NAME, ("setup", "export"))
    run_marks(NAME, space)
    return space


def pseudo_in_place(joint):
    second = joint / joint.sum(dim=1, keepdim=True)
    joint /= joint.sum(dim=0)
    return joint.mul_(second).sum()


def weighted_in_place(nll, hidden, t):
    nll *= hidden
    nll /= t
    return nll.mean()


def tighter_in_place(costs):
    costs.neg_()
    return (math.log(len(costs)) - costs.logsumexp(0)).mean()


def write_in_place(model, tokens, generator):
    for i in range(tokens.shape[1]):
        p = model(tokens)[:, i].softmax(-1)
        drawn = torch.multinomial(p, 1, generator=generator)[:, 0]
        tokens[:, i] = torch.where(tokens[:, i] == model.mask, drawn, tokens[:, i])
    return tokens


def write_at_once(model, tokens, generator):
    return objectives.unmask(model, tokens, 1, generator)[0]


WRONG = {
    1: lambda joint: (joint / joint.sum(dim=0)).sum(),
    2: lambda nll, hidden, t: nll[hidden].mean(),
    3: lambda costs: costs.mean(),
    4: write_at_once,
    5: lambda p: p * p,
}
RIGHT = {1: pseudo_in_place, 2: weighted_in_place, 3: tighter_in_place, 4: write_in_place}


@pytest.mark.parametrize("number", WRONG)
def test_marks_refuse_wrong_answers(page_space, capsys, number):
    page_space["exercise"]("Exercise", WRONG[number], page_space[f"mark_{number}"])
    assert capsys.readouterr().out.startswith("Exercise: not yet - ")


@pytest.mark.parametrize("number", RIGHT)
def test_answers_that_work_in_place_are_marked_as_any_other(page_space, capsys, number):
    page_space["exercise"]("Exercise", RIGHT[number], page_space[f"mark_{number}"])
    assert capsys.readouterr().out == "Exercise: correct\n"


def test_the_exercises_can_be_solved():
    assert run_exercises(tools.ROOT / "notebooks" / NAME) == 5


def test_the_open_exercise_refuses_a_model_that_is_too_large_or_of_another_context(page_space):
    def too_large(vocab):
        model = objectives.Backbone(vocab, 32, 128, 2, 1)
        return model, torch.optim.AdamW(model.parameters(), lr=6e-3)

    def too_long(vocab):
        model = objectives.Backbone(vocab, 64, 32, 2, 1)
        return model, torch.optim.AdamW(model.parameters(), lr=6e-3)

    with pytest.raises(CheckFailed, match="weights"):
        page_space["mark_6"](too_large)
    with pytest.raises(CheckFailed, match="context"):
        page_space["mark_6"](too_long)


@pytest.mark.exhaustive
def test_the_open_exercise_takes_the_solution_and_refuses_the_network_to_beat():
    assert run_exercises(tools.ROOT / "notebooks" / NAME, only_open=True) == 1
    space = run_cells(NAME, ("setup", "export"))
    run_marks(NAME, space)

    def to_beat(vocab):
        model = objectives.Backbone(vocab, 32, 48, 2, 1)
        return model, torch.optim.AdamW(model.parameters(), lr=1e-3)

    with pytest.raises(CheckFailed, match="your bound"):
        space["mark_6"](to_beat)


# ---------------------------------------------------------------- panels and pictures

TEXT = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n"
CHARACTERS = Characters(TEXT)


def small_filler(seed):
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = objectives.Backbone(len(CHARACTERS), 64, 16, 2, 1)
        for weight in model.parameters():
            weight *= 3
    return model


MAKERS = {
    "kept": panels.objectives.fill_in,
    "two": lambda: panels.objectives.fill_in(
        {"one": small_filler(0), "other": small_filler(1)}, CHARACTERS, TEXT[:60], "Yours"
    ),
}
every_panel = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@every_panel
def test_every_control_draws_once_and_changes_the_picture(make):
    use_every_control(make())


@every_panel
def test_each_panel_owns_its_state_and_its_storyboard_is_the_same_each_time(make):
    state = torch.get_rng_state()
    assert make()._storyboard == make()._storyboard
    assert torch.equal(torch.get_rng_state(), state), "the page's random numbers were drawn from"


@every_panel
@pytest.mark.exhaustive
def test_two_panels_moved_at_once_draw_what_each_draws_alone(make):
    assert moved_together(make) == 0


@every_panel
def test_a_move_is_answered_at_once(make):
    panel = make()
    for value in (0.0, 1.0):
        assert answers_within(panel, 150, share=value)


@pytest.mark.parametrize("words", ["", "  ", "你好🙂", "<img src=x onerror=alert(1)>", "$x_1$", "a" * 900])
def test_a_readers_words_give_a_picture_and_at_most_a_remark(words):
    panel = MAKERS["two"]()
    panel.set(text=words)
    assert panel.error is None
    assert "<img src=x" not in panel.status.value
    unknown = set(words) - set(CHARACTERS.number) - {"_"}
    assert ("Left out" in panel.status.value) == bool(unknown)
    assert ("is cut after 64" in panel.status.value) == (len(words) == 900)


def test_underscores_are_gaps_and_an_empty_box_is_a_window_of_them():
    panel = MAKERS["two"]()
    panel.set(text="Spe_k, sp__k", share=0.0)
    assert "3 gaps left after 0 evaluations" in panel.status.value
    panel.set(text="")
    assert "64 gaps left" in panel.status.value
    panel.set(text="Speak")
    assert "0 gaps left" in panel.status.value


def test_the_panel_fills_so_many_at_a_time_and_hides_again():
    panel = MAKERS["two"]()
    panel.set(text="____________", share=0.0, number=5)
    before = picture(panel)
    for left in (7, 2, 0):
        panel.buttons["Fill once"].click()
        assert f"{left} gaps left" in panel.status.value
    panel.buttons["Fill once"].click()
    assert "12 gaps left after 0 evaluations" in panel.status.value
    assert (picture(panel) == before).all()


def test_the_panel_fills_in_the_order_that_is_asked_for():
    from aigc_helpers.panels.objectives import _Filling

    model = small_filler(0)
    state = _Filling({"one": model}, CHARACTERS)
    state.read("________", 0.0)
    p = state.probabilities(model)
    assert state.next_gaps(p, "from the left", 3)[0].tolist() == [True] * 3 + [False] * 5
    assert state.next_gaps(p, "from the right", 1)[0].tolist() == [False] * 7 + [True]
    surest = p[0].amax(-1).argmax()
    assert state.next_gaps(p, "surest first", 1)[0].nonzero()[0] == surest
    shown = state.next_gaps(p, "random", 2)
    state.fill(model, "random", 2)
    assert torch.equal(state.tokens != len(CHARACTERS), shown), "the outlined gaps are those filled"


def test_the_panel_asks_the_network_that_is_chosen():
    panel = MAKERS["two"]()
    panel.set(text="Spe_k", share=0.0)
    one = picture(panel)
    panel.set(model="other")
    assert not (picture(panel) == one).all()


def test_a_temperature_of_zero_fills_in_the_likeliest_letters():
    from aigc_helpers.panels.objectives import _Filling

    model = small_filler(0)
    state = _Filling({"one": model}, CHARACTERS)
    state.read("________", 0.0)
    likeliest = state.probabilities(model).argmax(dim=-1)
    assert (state.probabilities(model, 0).amax(dim=-1) == 1).all()
    state.fill(model, "random", 8, temperature=0)
    assert torch.equal(state.tokens, likeliest)


def test_the_panel_draws_at_the_temperature_that_is_chosen():
    panel = MAKERS["two"]()
    panel.set(text="Spe_k", share=0.0)
    warm = picture(panel)
    panel.set(temperature=0.0)
    assert not (picture(panel) == warm).all()


def test_a_panel_keeps_the_model_it_was_given():
    model = small_filler(0)
    panel = panels.objectives.fill_in({"one": model}, CHARACTERS, TEXT[:60])
    before = panel.picture.value
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    panel.redraw()
    assert panel.picture.value == before


STRIP = ("abc " * 16, torch.arange(64))
PICTURES = {
    "diagram": panels.objectives.masked_diagram,
    "curves": lambda: panels.objectives.two_curves(
        {"one": [4.0, 3.0, 2.0], "other": [4.0, 2.0, 1.5]},
        {"uniform": 4.2, "bigram": 2.5},
        [{1: 3.5, 3: 2.2}, {3: 1.9}],
    ),
    "costs": lambda: panels.objectives.cost_curves({"a": [1.0, 2.0], "b": [1.0, 4.0]}, 1.9, 3.3),
    "masks": panels.objectives.attention_masks,
    "race": lambda: panels.objectives.writing_race(
        {"a": [(1.0, 3.3, 4.1), (0.7, 2.9, 3.7)], "b": [(1.0, 3.3, 1.9), (0.7, 3.2, 1.5)]}, (3.3, 1.7)
    ),
    "strips": lambda: panels.objectives.order_strips({"random": STRIP, "from the left": STRIP}),
}


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
def test_a_picture_is_drawn_whole_and_can_be_read(draw):
    check_drawing(draw)


def test_the_strips_are_dark_where_letters_came_late():
    fig = panels.objectives.order_strips({"from the left": STRIP})
    shades = [sum(patch.get_facecolor()[:3]) for patch in fig.axes[0].patches]
    assert len(shades) == 64 and shades[0] > shades[30] > shades[63]


def test_the_diagram_writes_more_letters_with_more_evaluations():
    _, written = panels.objectives.finished_lines()
    dots = [line.count("·") for _, line in written]
    assert dots == [64, 48, 32, 16, 0]


# ---------------------------------------------------------------- seeded faults

page = partial(in_notebook, NAME)
panel = partial(in_panels, "objectives")

FAULTS = [
    page("the causal network looks ahead at its entrance", "list(range(-2 * REACH, 0)) if causal", "both if causal"),
    page("the blocks forget that they are causal", "Block(width, num_heads, causal) for", "Block(width, num_heads, False) for"),
    page(
        "neighbours are read one position off",
        "start = 2 * REACH + offset",
        "start = 2 * REACH + offset - 1",
        "test_the_entrance_reads_the_letters_at_its_offsets_and_no_others",
    ),
    page(
        "the mask gets a logit",
        "self.token.weight[: self.mask].T",
        "self.token.weight.T",
        "test_the_mask_gets_no_logit_and_the_head_is_the_embedding",
    ),
    page(
        "eq. (1), left: the letter itself is shown",
        "F.pad(x[:, :-1], (1, 0), value=model.mask)         #",
        "x  #",
        "test_next_nll_is_the_cost_of_each_letter_after_those_before_it",
    ),
    page(
        "gaps are not hidden",
        "logits = model(torch.where(hidden, model.mask, x))\n    return F.cross",
        "logits = model(x)\n    return F.cross",
        "test_gaps_are_shown_as_the_mask_and_letters_as_they_are",
    ),
    page(
        "eq. (1), right: visible letters count too",
        "return gap_nll(model, x, hidden)[hidden].mean()",
        "return gap_nll(model, x, hidden).mean()",
        "test_masked_loss_takes_the_hidden_letters_only",
    ),
    page(
        "masked: 85 % are hidden",
        "draw(x.shape, generator, x.device) < share\n    hidden[0, 0]",
        "draw(x.shape, generator, x.device) > share\n    hidden[0, 0]",
        "test_masked_loss_hides_its_share_and_at_least_one",
    ),
    page("next sentence: true and false are swapped", "torch.where(true, x, other), true", "torch.where(true, other, x), true", "test_false_pairs_have_another_rows_second_half"),
    page(
        "next sentence: the other half is its own",
        "x.roll(1, dims=0)[:, half:]",
        "x[:, half:]",
        "test_false_pairs_have_another_rows_second_half",
    ),
    page(
        "replaced: a letter drawn again counts as false",
        "return changed, changed != x",
        "return changed, swap",
        "test_replaced_letters_are_those_that_differ",
    ),
    page("the exact table: hidden and visible swapped", "slice(None) if c == 2 else slice(c, c + 1)", "slice(None) if c != 2 else slice(0, 2)"),
    page("the exact table is not normalised", "part = part / part.sum()", "part = part / 1"),
    page("eq. (3): nothing is hidden", "2 if k == i else letter for k, letter in enumerate(word)", "2 if k != i else letter for k, letter in enumerate(word)"),
    page("eq. (4): the context does not grow", "context[i] = word[i]\n    return nll", "context[i] = 2\n    return nll"),
    page("eq. (5): a mean of probabilities", "bound = by_order.mean(dim=0)", "bound = -(-by_order).exp().mean(dim=0).log()"),
    page("eq. (6): visible letters are summed", "for i in M)", "for i in range(3) if i not in M)"),
    page("eq. (7): one factor t too many", "(times ** (m - 1) * (1 - times) ** (3 - m))", "(times ** m * (1 - times) ** (3 - m))"),
    page("eq. (7): factorials of m", "math.factorial(m - 1) * math", "math.factorial(m) * math"),
    page("eq. (8): the weight is missing", "return (nll * hidden / t).sum() / x.numel()", "return (nll * hidden).sum() / x.numel()"),
    page("eq. (8): a mean over hidden letters", "return (nll * hidden / t).sum() / x.numel()", "return nll[hidden].mean()"),
    page("eq. (8): hidden with probability 1 - t", "draw(x.shape, generator, x.device) < t\n", "draw(x.shape, generator, x.device) < 1 - t\n"),
    page("times: all in the first part", "return ((part + u) / n)", "return ((0 * part + u) / n)"),
    page(
        "times: the later the row, the later the time",
        "part = torch.randperm(n, generator=generator)[:, None]",
        "part = torch.arange(n)[:, None]",
        "test_times_are_one_in_each_part_and_never_zero",
    ),
    page("hide_exactly hides one more", "return rank < num_hidden[:, None]", "return rank <= num_hidden[:, None]"),
    page("eq. (9): from 0 gaps on", "[:, 0] * T).ceil().long()", "[:, 0] * T).floor().long()"),
    page("eq. (9): divided by T, not by m", "(nll * hidden).sum(dim=1) / num_hidden", "(nll * hidden).sum(dim=1) / T"),
    page("the sampler draws from the wrong row", "drawn = torch.multinomial(q, 1, generator=generator).view(tokens.shape)", "drawn = torch.multinomial(q, 1, generator=generator).view(tokens.shape).flip(1)"),
    page("the sampler keeps all at once", "num_kept = (hidden.sum(dim=1, keepdim=True) / steps_left).ceil()", "num_kept = hidden.sum(dim=1, keepdim=True) + 0 * steps_left"),
    page(
        "the sampler rounds down",
        "keepdim=True) / steps_left).ceil()",
        "keepdim=True) / steps_left).floor()",
        "test_gaps_are_spread_evenly_over_the_evaluations",
    ),
    page(
        "left and right are swapped",
        'score = -score if ordering == "from the left" else score',
        'score = score if ordering == "from the left" else -score',
        "test_the_orders_are_what_their_names_say",
    ),
    page(
        "the unsure are filled first",
        "score = p.amax(dim=-1)       ",
        "score = -p.amax(dim=-1)       ",
        "test_the_orders_are_what_their_names_say",
    ),
    page(
        "gaps and letters are ranked together",
        'score = score.masked_fill(~hidden, float("-inf"))',
        "score = score + 0",
        "test_every_gap_is_filled_and_what_was_given_stays",
    ),
    page("eq. (10): a distribution over subsets counts them twice", "chance = p / len(subsets)", "chance = p"),
    page("eq. (11): without the letters to the right", "log_p.append(-next_nll(model, tried).sum(dim=1))", "log_p.append(-next_nll(model, tried)[:, : position + 1].sum(dim=1))"),
    page(
        "an answer without the right side sees it",
        "hidden[:, position:] = True",
        "hidden[:, position] = True",
        "test_a_letter_is_predicted_from_what_may_be_seen",
    ),
    page(
        "threshold: the surest is not kept",
        "((sure > threshold) | (sure == sure.amax(dim=1, keepdim=True)))",
        "((sure > threshold) | (sure >= 0))",
        "test_the_threshold_fills_all_that_is_sure_and_at_least_one",
    ),
    page(
        "the judge reads the letter that it is to foresee",
        "F.cross_entropy(logits.transpose(1, 2), samples[:, 1:]).item()",
        "F.cross_entropy(logits.transpose(1, 2), samples[:, :-1]).item()",
        "test_scores_of_samples_by_hand",
    ),
    page(
        "words that are cut off count",
        "for part in parts[1:-1] if part",
        "for part in parts if part",
        "test_words_at_the_ends_are_left_out",
    ),
    page("mark 5 counts without drawing again", "(kept_one & draws[2])", "(kept_one & draws[1])", "exercises"),
    page("mark 3 takes the mean of the costs", "first = -math.log((math.exp(-1) + math.exp(-3)) / 2)", "first = 2.0", "exercises"),
    page("mark 4 wants what was given to be written over", '"a letter that was given stays", written[:, 2].float().mean(), 1.0', '"a letter that was given stays", written[:, 2].float().mean(), 0.5', "exercises"),
    page("eq. (4): what is written is not shown", "tokens[rows, position] = letter", "tokens[rows, position] = model.mask"),
    page("the likeliest draw: the likeliest letter is ranked", "score = p.gather(-1, drawn[..., None])[..., 0]", "score = p.amax(dim=-1)"),
    page("eq. (1), right: a mean of windows' means", "return gap_nll(model, x, hidden)[hidden].mean()", "return ((gap_nll(model, x, hidden) * hidden).sum(1) / hidden.sum(1).clamp_min(1)).mean()"),
    page(
        "threshold: one surest gap of the batch",
        "(sure == sure.amax(dim=1, keepdim=True))",
        "(sure == sure.amax())",
        "test_the_threshold_counts_each_windows_evaluations_and_can_take_the_likeliest",
    ),
    panel(
        "fill panel: an underscore is left out",
        "if c == GAP or c in known]",
        "if c in known]",
        "test_underscores_are_gaps_and_an_empty_box_is_a_window_of_them",
    ),
    panel(
        "fill panel: a new random order at each move",
        "scores = self.scores.masked_fill",
        "scores = torch.rand(hidden.shape, generator=self.random).masked_fill",
        "test_the_panel_fills_in_the_order_that_is_asked_for",
    ),
    panel(
        "fill panel: one more is filled",
        "return hidden & (rank < number)",
        "return hidden & (rank <= number)",
        "test_the_panel_fills_so_many_at_a_time_and_hides_again",
    ),
    panel(
        "fill panel: the network cannot be chosen",
        "p = state.probabilities(models[model], temperature)",
        "p = state.probabilities(models[first], temperature)",
        "test_the_panel_asks_the_network_that_is_chosen",
    ),
    panel(
        "fill panel: letters are drawn at temperature 1",
        "p = self.probabilities(model, temperature)",
        "p = self.probabilities(model, temperature + 1 - temperature)",
        "test_a_temperature_of_zero_fills_in_the_likeliest_letters",
    ),
    page(
        "the reverse process: as many at each step",
        "freed = draw(tokens.shape, generator, \"cpu\") < (t - s) / t",
        "freed = draw(tokens.shape, generator, \"cpu\") < (1.0 if step == 1 else t - s)",
    ),
    page("two steps: the later gaps do not see the earlier", "cost_of_set(table, word, then)).exp()", "cost_of_set(table, word, first)).exp()"),
    page("equal frequencies: another table's", "one_by_one = marginals(sampled_distribution(table, 3))", "one_by_one = marginals(sampled_distribution(wrong, 3))"),
    page("letter pairs: the letter behind", "bigram[x[:, :-1], x[:, 1:]].log()", "bigram[x[:, 1:], x[:, :-1]].log()"),
    panel(
        "strips: early is dark",
        "share = 0.55 * step / last",
        "share = 0.55 - 0.55 * step / last",
        "test_the_strips_are_dark_where_letters_came_late",
    ),
]
