"""03b_gpt_beyond: its exported functions beyond the page's own checks, its panels, exercises, seeded faults."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from aigc_helpers import panels
from aigc_helpers.checks import CheckFailed
from aigc_helpers.data import load_text
from aigc_helpers.models import gpt, gpt_beyond
from tests import causal_models
from tests.causal_models import seeded, stirred
from tests.marking import assert_marked, run_marks
from tests.notebook_cells import run_cells
from tests.panel_checks import WORDS, answers_within, moved_together, picture, use_every_control
from tests.seeded_faults import in_notebook, in_panels

NAME = "03b_gpt_beyond.ipynb"

GPT2_PARTS = {"grams": 1, "rms": False, "rotary": False, "qk_norm": False, "relu2": False}
MODELS = {"all": {"rows": 50}, "without chunks": {"grams": 1}, "with GPT-2's parts": GPT2_PARTS}
every_model = pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS)


def make_model(settings):
    return stirred(gpt_beyond.ModernGPT(11, 16, 12, 2, 2, **settings))


@every_model
@pytest.mark.parametrize("cuts", causal_models.CUTS)
def test_in_pieces_with_a_cache_the_logits_are_those_of_the_whole(settings, cuts):
    causal_models.assert_pieces_make_the_whole(make_model(settings), cuts)


@every_model
def test_no_logit_feels_a_later_token(settings):
    causal_models.assert_causal(make_model(settings))


@every_model
def test_the_same_text_is_written_with_and_without_the_cache_and_beyond_the_context(settings):
    causal_models.assert_cache_changes_no_text(make_model(settings))


@torch.no_grad()
def test_a_modern_block_is_its_formula():
    """Eq. (8) of 03 with eq. (2), eq. (3), queries and keys of length 1 a number, and the square of a ReLU; one head."""
    torch.manual_seed(0)
    block, h = stirred(gpt_beyond.ModernBlock(8, 1)), torch.randn(1, 5, 8)

    def unit(x):
        return x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()

    q, k, v = block.qkv(unit(h) * block.norm1.weight).chunk(3, dim=-1)
    q, k = (gpt_beyond.rotate(unit(x)[:, None])[:, 0] for x in (q, k))
    middle = h + block.out(gpt.attention(q, k, v, gpt.causal_mask(5))[0])
    inner = block.up(unit(middle) * block.norm2.weight)
    want = middle + block.down(inner * (inner > 0) * inner)
    torch.testing.assert_close(block(h), want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("muon", [True, False])
def test_each_weight_has_exactly_one_optimiser_and_all_of_them_move(muon):
    model = stirred(gpt_beyond.ModernGPT(11, 16, 12, 2, 2, rows=50))
    opts = gpt_beyond.optimizers(model, muon)
    owned = [id(weight) for opt in opts for group in opt.param_groups for weight in group["params"]]
    assert sorted(owned) == sorted(id(weight) for weight in model.parameters())
    if muon:
        by_muon = {id(weight) for group in opts[1].param_groups for weight in group["params"]}
        layers = [
            layer
            for block in model.blocks
            for layer in (block.qkv, block.out, block.up, block.down)
        ]
        assert by_muon == {id(layer.weight) for layer in layers}, (
            "no embedding, no table, no norm, no exit"
        )
    before = [weight.clone() for weight in model.parameters()]
    gpt_beyond.set_rates(opts, 5, 100)
    gpt_beyond.train_step(
        model, opts, torch.randint(11, (4, 17), generator=seeded()), torch.device("cpu")
    )
    assert all(
        not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)
    )


def test_the_rates_rise_stay_and_fall_to_nearly_zero():
    opts = gpt_beyond.optimizers(gpt_beyond.ModernGPT(11, 16, 12, 2, 1, grams=1))
    seen = []
    for step in range(1, 101):
        gpt_beyond.set_rates(opts, step, 100)
        seen.append([opt.param_groups[0]["lr"] for opt in opts])
    assert seen[0] == pytest.approx([5e-3 / 20, 0.02 / 20]) and seen[19] == seen[
        39
    ] == pytest.approx([5e-3, 0.02])
    assert seen[99] == pytest.approx([5e-3 / 60, 0.02 / 60]) and seen[69] == pytest.approx(
        [5e-3 * 31 / 60, 0.02 * 31 / 60]
    )


def test_training_makes_the_loss_fall():
    torch.manual_seed(0)
    model = gpt_beyond.ModernGPT(5, 8, 16, 2, 1, rows=50)
    opts, batch = gpt_beyond.optimizers(model), torch.arange(36).view(4, 9) % 5
    losses = []
    for step in range(1, 41):
        gpt_beyond.set_rates(opts, step, 40)
        losses.append(gpt_beyond.train_step(model, opts, batch, torch.device("cpu")).item())
    assert losses[-1] < 0.3 * losses[0]


def test_the_merges_of_a_text_without_pairs_end_with_a_clear_message():
    with pytest.raises(ValueError, match="only 1 of the 5 merges"):
        gpt_beyond.BytePairs("ab", 5)
    with pytest.raises(ValueError, match="only 2 of the 3 merges"):
        gpt_beyond.learn_merges("abc", 3)


def test_a_sentence_that_is_torn_apart_is_labelled_so():
    """The trunk is asked with halves that fit or halves that do not, and the label says which."""
    seen = {}

    class Spy:
        def features(self, tokens):
            seen["tokens"] = tokens
            return torch.zeros(*tokens.shape, 3)

        def verdict(self, h):
            return h[..., :1]

    x = torch.arange(8)[:, None] * 10 + torch.arange(4)
    loss, _ = gpt_beyond.sentence_goal(Spy(), x, seeded())
    fits = seen["tokens"][:, 2] // 10 == seen["tokens"][:, 1] // 10
    assert 0 < fits.sum() < 8 and loss.item() == pytest.approx(math.log(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            F,
            "binary_cross_entropy_with_logits",
            lambda logits, labels: seen.update(labels=labels) or loss,
        )
        gpt_beyond.sentence_goal(Spy(), x, seeded())
    assert torch.equal(seen["labels"][:, 0].bool(), fits)


def test_the_masked_goal_asks_only_for_what_is_hidden():
    class Copier:
        hidden = 5

        def gpt(self, tokens):
            return (
                50.0 * F.one_hot(tokens, 6).float()
            )  # sure of what it sees; where a token is hidden, sure of "hidden"

    x = torch.randint(5, (50, 20), generator=seeded())
    loss, _ = gpt_beyond.masked_goal(Copier(), x, seeded())
    assert loss.item() == pytest.approx(50.0)


def test_the_replaced_goal_labels_what_was_swapped():
    class Knowing:
        def __init__(self, x):
            self.x = x

        def features(self, tokens):
            return (tokens != self.x)[..., None].float()

        def verdict(self, h):
            return 20 * h - 10

    x = torch.randint(9, (50, 20), generator=seeded())
    loss, ahead = gpt_beyond.replaced_goal(Knowing(x), x, seeded())
    assert loss.item() < 1e-3 and ahead == 1.0


def test_the_answers_loss_leaves_the_question_out():
    tokens, is_answer = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[False, False, True, False]])

    def model(tokens):
        logits = torch.zeros(1, 3, 6)
        logits[0, 1, 3] = 50.0  # sure, and right, after the second token; elsewhere: no idea
        return logits

    assert gpt_beyond.answer_loss(model, tokens, is_answer).item() < 1e-6


def test_marks_refuse_the_bugs_of_the_exercises():
    """Each published bug, handed in as an answer, is refused; the solutions are marked right by tests/test_notebooks.py."""
    space = run_cells("03b_gpt_beyond.ipynb", ("setup", "export"))
    run_marks("03b_gpt_beyond.ipynb", space)

    def from_the_left(tokens, merges):
        rank, k = {pair: m for m, pair in enumerate(merges)}, 0
        while k < len(tokens) - 1:
            pair = tuple(tokens[k : k + 2])
            tokens, k = (
                (tokens[:k] + [256 + rank[pair]] + tokens[k + 2 :], 0)
                if pair in rank
                else (tokens, k + 1)
            )
        return tokens

    def all_places(logits, x, hide):
        return F.cross_entropy(logits.flatten(0, 1), x.flatten())

    def two_zeros(out_features, in_features, rank):
        return torch.zeros(out_features, rank), torch.zeros(rank, in_features)

    def place_zero(q, new_k, old_k):
        return (gpt_beyond.rotate(q) @ torch.cat([old_k, gpt_beyond.rotate(new_k)]).T)[0]

    for number, bug in enumerate((from_the_left, all_places, two_zeros, place_zero), start=1):
        with pytest.raises(CheckFailed):
            space[f"mark_{number}"](bug)


def test_gpt2_is_loaded_from_a_folder_and_gives_our_model_its_logits(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=16, n_embd=12, n_layer=2, n_head=2, bos_token_id=0,
                               eos_token_id=0)).save_pretrained(tmp_path)  # fmt: skip
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    ).save_pretrained(tmp_path)
    (vocabulary, library), message = gpt_beyond.load_gpt2(str(tmp_path))
    assert message == "" and vocabulary.encode("ab") == [0, 1]
    ours = gpt.GPT(20, 16, 12, 2, 2).eval()
    ours.load_state_dict(gpt.from_gpt2(library.state_dict()))
    tokens = torch.randint(20, (2, 16), generator=seeded())
    with torch.no_grad():
        torch.testing.assert_close(
            ours(tokens), library.eval()(tokens).logits, rtol=1e-3, atol=1e-4
        )


def test_without_the_weights_there_is_one_clear_message(tmp_path):
    found, message = gpt_beyond.load_gpt2(str(tmp_path))
    assert found is None and "FETCH_GPT2 = True" in message and "\n" not in message


# ---------------------------------------------------------------- byte-pair encoding at its edges

LETTERS = "the cat sat on the mat, and that was that.\n"
PAIRS = gpt_beyond.BytePairs(LETTERS * 3 + "你好, 你们好", 24)


@given(st.text(alphabet=LETTERS), st.integers(0, 24))
def test_any_text_of_the_alphabet_comes_back_at_any_number_of_merges(text, num_merges):
    tokens = PAIRS.encode(text, num_merges)
    assert PAIRS.decode(tokens) == text
    assert all(token < 256 + num_merges for token in tokens)


@given(st.text())
def test_any_text_at_all_comes_back(text):
    assert PAIRS.decode(PAIRS.encode(text)) == text
    assert PAIRS.decode(torch.tensor(PAIRS.encode(text), dtype=torch.long)) == text


@given(st.text(max_size=40), st.integers(0, 23))
def test_one_more_merge_never_makes_a_text_longer(text, num_merges):
    assert len(PAIRS.encode(text, num_merges + 1)) <= len(PAIRS.encode(text, num_merges))


@settings(deadline=None)
@given(st.text(min_size=1, max_size=60), st.integers(0, 8))
def test_what_is_learnt_is_the_most_frequent_pair_each_time(text, num_merges):
    """Against counting everything anew before each merge."""
    pieces = [list(piece.encode()) for piece in gpt_beyond.PIECES.findall(text)]
    merges = []
    for new in range(256, 256 + num_merges):
        counts = {}
        for piece in pieces:
            for pair in zip(piece, piece[1:], strict=False):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            with pytest.raises(ValueError, match=f"only {len(merges)} of the {num_merges} merges"):
                gpt_beyond.learn_merges(text, num_merges)
            return
        merges.append(max(counts, key=lambda pair: (counts[pair], pair)))
        pieces = [gpt_beyond.glue(piece, merges[-1], new) for piece in pieces]
    assert gpt_beyond.learn_merges(text, num_merges) == merges


def test_no_merges_are_bytes_and_no_text_is_no_tokens():
    plain = gpt_beyond.BytePairs("", 0)
    assert plain.encode("") == [] and plain.decode([]) == "" and len(plain) == 256
    assert plain.encode("ab\u00e9") == [97, 98, 0xC3, 0xA9]
    assert PAIRS.encode("the cat", 0) == list(b"the cat"), "0 merges are not all of them"
    with pytest.raises(ValueError, match="only 0 of the 1 merges can be learnt"):
        gpt_beyond.BytePairs("", 1)


@pytest.mark.parametrize("num_merges", [-1, 25, 2.0, "3"])
def test_merges_that_were_not_learnt(num_merges):
    with pytest.raises(ValueError, match="encode: num_merges must be a whole number from 0 to 24"):
        PAIRS.encode("the", num_merges)


@pytest.mark.parametrize("num_merges", [-1, 1.5, None])
def test_a_number_of_merges_that_is_none(num_merges):
    with pytest.raises(ValueError, match="learn_merges: num_merges must be a whole number"):
        gpt_beyond.learn_merges("the", num_merges)


@pytest.mark.parametrize("token", [-1, 280, 1.0])
def test_tokens_that_the_vocabulary_does_not_have(token):
    with pytest.raises(ValueError, match="decode: a token must be a whole number from 0 to 279"):
        PAIRS.decode([97, token])


def test_half_a_character_is_refused_in_a_sentence_and_half_a_token_is_a_sign():
    with pytest.raises(ValueError, match="has half a character in it: leave it out"):
        PAIRS.encode("a \ud83d b")
    assert PAIRS.decode([0xE4]) == "\ufffd"


# ---------------------------------------------------------------- models at their edges


@pytest.mark.parametrize("model_settings", [{"rows": 50}, GPT2_PARTS], ids=["modern", "GPT-2's"])
def test_the_context_is_kept_and_no_tokens_are_refused(model_settings):
    model = make_model(model_settings)
    cache = gpt.Cache()
    with torch.no_grad():
        model(torch.zeros(1, 16).long(), cache)
        for given_cache, tokens in ((cache, torch.zeros(1, 1)), (None, torch.zeros(1, 17))):
            with pytest.raises(ValueError, match="17 tokens are more than the context of 16"):
                model(tokens.long(), given_cache)
        for given_cache in (None, gpt.Cache(), cache):
            with pytest.raises(ValueError, match="there are no tokens: give at least one"):
                model(torch.zeros(1, 0).long(), given_cache)


def test_a_context_of_one_reads_and_writes():
    model = stirred(gpt_beyond.ModernGPT(11, 1, 12, 2, 1, rows=50))
    for use_cache in (True, False):
        written = gpt.generate(model, torch.tensor([[3]]), 5, seeded(), use_cache)
        assert written.shape == (1, 6)


BAD_MODELS = {
    "heads that do not fit": ({"width": 12, "num_heads": 5}, "width 12 cannot be cut into 5 equal"),
    "no heads": ({"num_heads": 0}, "num_heads must be a whole number of at least 1"),
    "odd heads to rotate": ({"width": 6, "num_heads": 2}, "2 equal heads of an even width"),
    "no context": ({"context": 0}, "context must be a whole number of at least 1"),
    "no tokens in a chunk": ({"grams": 0}, "grams must be a whole number of at least 1"),
    "no rows": ({"rows": 0}, "rows must be a whole number of at least 1"),
}


@pytest.mark.parametrize(("changes", "message"), BAD_MODELS.values(), ids=BAD_MODELS)
def test_sizes_that_make_no_model(changes, message):
    sizes = {"context": 16, "width": 12, "num_heads": 2, "num_blocks": 1, "rows": 50} | changes
    with pytest.raises(ValueError, match=message):
        gpt_beyond.ModernGPT(11, **sizes)


def test_odd_heads_are_fine_without_rotation_and_rotate_says_so_itself():
    gpt_beyond.ModernGPT(11, 16, 6, 2, 1, grams=1, rotary=False)
    with pytest.raises(ValueError, match="rotate: the width of a head must be even"):
        gpt_beyond.rotate(torch.zeros(1, 1, 4, 3))


def test_chunks_of_one_table_row_and_of_a_large_vocabulary_stay_inside_the_table():
    tokens = torch.tensor([[0, 50_256, 50_256, 50_256, 17]])
    for rows in (1, 7, 32_768):
        for found in gpt_beyond.chunk_rows(tokens, 50_257, rows, 4):
            assert found.shape == tokens.shape
            assert found.min() >= 0 and found.max() < rows


# ---------------------------------------------------------------- sampling from these models


def test_the_settings_of_the_sampler_reach_it():
    model = make_model({"rows": 50})
    start = torch.tensor([[1, 2, 3]])
    greedy = gpt.generate(model, start, 8, seeded(), temperature=0)
    for same in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}):
        assert torch.equal(gpt.generate(model, start, 8, seeded(), **same), greedy), same
    free = gpt.generate(model, start, 8, seeded())
    for nothing in ({"top_p": 1.0}, {"top_k": 11}, {"temperature": 1.0}):
        assert torch.equal(gpt.generate(model, start, 8, seeded(), **nothing), free), nothing
    assert not torch.equal(free, greedy)
    assert torch.equal(gpt.generate(model, start, 0), start)


BAD_SAMPLING = [{"temperature": -1.0}, {"temperature": math.nan}, {"top_k": 0}, {"top_p": 0.0}]


@pytest.mark.parametrize("wrong", BAD_SAMPLING, ids=str)
def test_settings_that_no_sampler_has_are_refused_here_too(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        gpt.generate(make_model({"rows": 50}), torch.tensor([[1]]), 2, seeded(), **wrong)


# ---------------------------------------------------------------- optimisers


def small():
    torch.manual_seed(0)
    return gpt_beyond.ModernGPT(9, context=8, width=16, num_heads=2, num_blocks=2, rows=64)


BATCH = torch.randint(9, (4, 9), generator=seeded(2))


@pytest.mark.parametrize("muon", [True, False])
@pytest.mark.parametrize("frozen", ["blocks.0", "blocks", "token", "head"])
def test_a_frozen_part_is_left_out_and_the_rest_trains(muon, frozen):
    model = small()
    model.get_submodule(frozen).requires_grad_(False)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    opts = gpt_beyond.optimizers(model, muon)
    owned = {id(w) for opt in opts for group in opt.param_groups for w in group["params"]}
    assert owned == {id(w) for w in model.parameters() if w.requires_grad}
    losses = [gpt_beyond.train_step(model, opts, BATCH, "cpu").item() for _ in range(3)]
    assert losses[0] == pytest.approx(math.log(9)) and math.isfinite(losses[2])
    assert losses[2] < losses[0] or frozen == "head"
    for name, weight in model.named_parameters():
        if name.startswith(frozen):
            assert torch.equal(weight, before[name])


def test_a_block_frozen_after_the_optimisers_were_made_stays_as_it_is():
    losses = []
    for muon in (True, False):
        model = small()
        opts = gpt_beyond.optimizers(model, muon)
        model.blocks[0].requires_grad_(False)
        before = [weight.clone() for weight in model.blocks[0].parameters()]
        losses.append(gpt_beyond.train_step(model, opts, BATCH, "cpu").item())
        after = model.blocks[0].parameters()
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert losses[0] == losses[1]


def test_a_model_with_nothing_to_train_is_one_message():
    model = small().requires_grad_(False)
    with pytest.raises(ValueError, match="optimizers: every weight of the model is frozen"):
        gpt_beyond.optimizers(model)


def test_muon_refuses_what_is_no_matrix_and_settings_that_are_none():
    with pytest.raises(ValueError, match=r"Muon: is for matrices; give weights like \(5,\)"):
        gpt_beyond.Muon([torch.nn.Parameter(torch.zeros(3, 2)), torch.nn.Parameter(torch.zeros(5))])
    for wrong in ({"lr": -0.1}, {"lr": math.nan}, {"momentum": 1.5}, {"momentum": -0.1}):
        with pytest.raises(ValueError, match=f"Muon: {next(iter(wrong))} must be"):
            gpt_beyond.Muon([torch.nn.Parameter(torch.zeros(3, 2))], **wrong)
    with pytest.raises(ValueError, match="orthogonal: G must be a matrix"):
        gpt_beyond.orthogonal(torch.zeros(3))
    assert torch.equal(gpt_beyond.orthogonal(torch.zeros(3, 2)), torch.zeros(3, 2))


@pytest.mark.parametrize(("step", "num_steps"), [(0, 10), (11, 10), (1, 0), (1.0, 10)])
def test_the_rates_of_a_step_that_a_run_does_not_have(step, num_steps):
    opts = gpt_beyond.optimizers(small())
    with pytest.raises(ValueError, match="set_rates: (step|num_steps) must be a whole number"):
        gpt_beyond.set_rates(opts, step, num_steps)


def test_a_run_of_one_step_has_a_rate():
    opts = gpt_beyond.optimizers(small())
    gpt_beyond.set_rates(opts, 1, 1)
    assert [opt.param_groups[0]["lr"] for opt in opts] == [5e-3, 0.02]


# ---------------------------------------------------------------- LoRA


def test_adapting_twice_gives_the_same_loras_and_they_still_train():
    model = small()
    first = gpt_beyond.adapt(model, rank=3)
    torch.nn.init.normal_(first[0].up)
    second = gpt_beyond.adapt(model, rank=3)
    assert len(first) == 9 and all(a is b for a, b in zip(first, second, strict=True))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert len(trained) == 18 and first[0].up.abs().sum() > 0
    with pytest.raises(ValueError, match="adapt: the model has LoRAs of rank 3, not 4"):
        gpt_beyond.adapt(model, rank=4)
    assert len([weight for weight in model.parameters() if weight.requires_grad]) == 18


@pytest.mark.parametrize("rank", [0, -1, 2.0])
def test_a_rank_that_is_none_leaves_the_model_as_it_was(rank):
    model = small()
    with pytest.raises(ValueError, match="LoRA: rank must be a whole number of at least 1"):
        gpt_beyond.adapt(model, rank)
    assert isinstance(model.head, torch.nn.Linear)
    assert all(weight.requires_grad for weight in model.parameters())


def test_lora_goes_beside_linear_layers_of_any_precision_with_or_without_a_bias():
    layer = torch.nn.Linear(6, 4).double()
    lora = gpt_beyond.LoRA(layer, rank=2)
    torch.nn.init.normal_(lora.up)
    h = torch.randn(3, 6).double()
    torch.testing.assert_close(lora(h), F.linear(h, lora.merged(), layer.bias))
    wide = gpt_beyond.LoRA(torch.nn.Linear(2, 2), rank=5)
    assert wide(torch.zeros(1, 2)).shape == (1, 2)
    with pytest.raises(ValueError, match="LoRA: needs a linear layer, got Embedding"):
        gpt_beyond.LoRA(torch.nn.Embedding(3, 2))


# ---------------------------------------------------------------- objectives at their edges


def make_trunk():
    torch.manual_seed(0)
    return gpt_beyond.Trunk(gpt_beyond.ModernGPT(6, 8, 16, 2, 1, grams=1, causal=False))


@pytest.mark.parametrize("seed", range(8))
def test_the_losses_of_very_few_tokens_are_numbers(seed):
    x = torch.tensor([[1, 2]])
    for goal in (gpt_beyond.masked_goal, gpt_beyond.replaced_goal):
        loss, score = goal(make_trunk(), x, seeded(seed))
        assert loss.isfinite() and math.isfinite(score)


def test_a_sentence_without_another_one_cannot_be_torn_apart():
    for shape in ((1, 8), (4, 1)):
        with pytest.raises(ValueError, match="sentence_goal: needs two rows of two tokens"):
            gpt_beyond.sentence_goal(make_trunk(), torch.zeros(shape).long(), seeded())


def test_an_answer_that_is_marked_nowhere_is_one_message():
    first_only = torch.tensor([[True, False, False]])
    with pytest.raises(ValueError, match="answer_loss: is_answer marks no token after the first"):
        gpt_beyond.answer_loss(small(), torch.zeros(1, 3).long(), first_only)


# ---------------------------------------------------------------- exercises

ANSWERS = [  # (an answer that works in place and is right, one that is wrong), in the page's order
    (
        """
def encode_piece(tokens, merges):
    new = 256
    while merges:
        tokens[:] = glue(tokens, merges.pop(0), new)
        new += 1
    return tokens
""",
        """
def encode_piece(tokens, merges):
    while merges:
        tokens[:] = glue(tokens, merges.pop(), 256 + len(merges))
    return tokens
""",
    ),
    (
        """
def masked_loss(logits, x, hide):
    logits -= logits.logsumexp(dim=-1, keepdim=True)
    return -logits[hide].gather(1, x[hide][:, None]).mean()
""",
        """
def masked_loss(logits, x, hide):
    logits.zero_()
    hide.fill_(True)
    return F.cross_entropy(logits[hide], x[hide])
""",
    ),
    (
        """
def lora_start(out_features, in_features, rank):
    B = torch.ones(out_features, rank)
    B *= 0
    return B, torch.empty(rank, in_features).normal_()
""",
        """
def lora_start(out_features, in_features, rank):
    B = torch.ones(out_features, rank)
    B *= 0
    return B, torch.empty(rank, in_features).zero_()
""",
    ),
    (
        """
def scores_of_new_place(q, new_k, old_k):
    q.copy_(rotate(q, len(old_k)))
    new_k.copy_(rotate(new_k, len(old_k)))
    return (torch.cat([old_k, new_k]) @ q.T)[:, 0]
""",
        """
def scores_of_new_place(q, new_k, old_k):
    q.copy_(rotate(q))
    new_k.copy_(rotate(new_k))
    return (torch.cat([old_k, new_k]) @ q.T)[:, 0]
""",
    ),
]


def test_answers_that_work_in_place_are_marked_for_what_they_are():
    assert_marked(NAME, dict(enumerate(ANSWERS, start=1)))


# ---------------------------------------------------------------- panels

TEXT = load_text(verbose=False).text[:30_000]
CHARACTERS = gpt.Characters(TEXT)


def make_merges():
    return panels.gpt_beyond.merges(TEXT, num_merges=128)


def make_growth(context=32):
    model = gpt_beyond.ModernGPT(len(CHARACTERS), context, 16, 2, 2, rows=64)
    checkpoints = {}
    for step in (1, 2, 4, 8, 16, 32):
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3, generator=seeded(step))
        weights = model.state_dict()
        checkpoints[step] = {name: weight.bfloat16() for name, weight in weights.items()}
    opening = CHARACTERS.encode(TEXT[:3])
    return panels.gpt_beyond.growing_up(model, checkpoints, CHARACTERS, opening)


MAKERS = {"merges": make_merges, "growing_up": make_growth}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def test_every_control_and_button_draws_once_and_all_can_be_read(make):
    use_every_control(make())


def test_a_move_is_answered_within_150_ms(make):
    panel = make()
    for key in ("merges", "checkpoint"):
        if key in panel.controls:
            control = panel.controls[key]
            for value in (control.min, control.max):
                assert answers_within(panel, 150, **{key: value}), f"{panel.title}, {key}: {value}"


@pytest.mark.exhaustive
def test_two_panels_of_a_kind_moved_at_once_draw_what_each_would_alone(make):
    assert moved_together(make) == 0


def test_a_storyboard_is_the_same_each_time(make):
    assert make()._storyboard == make()._storyboard


@pytest.mark.parametrize("words", WORDS, ids=[ascii(words[:20]) for words in WORDS])
def test_a_reader_may_type_anything(make, words):
    panel = make()
    panel.controls["text"].value = words
    assert panel.error is None, panel.error


def test_half_a_character_is_a_message_and_the_next_text_is_cut_again():
    panel = make_merges()
    panel.controls["text"].value = "\ud83d"
    assert "leave it out" in panel.status.value
    panel.controls["text"].value = "whole"
    assert panel.error is None


def test_the_panel_of_merges_counts_as_the_tokenizer_does():
    panel = make_merges()
    words = "the statement is a string"
    panel.set(text=words, merges=40)
    tokens = gpt_beyond.BytePairs(TEXT, 128).encode(words, 40)
    assert f"25 characters, {len(tokens)} tokens: {25 / len(tokens):.2f}" in panel.status.value
    panel.buttons["One more merge"].click()
    assert panel.values["merges"] == 41
    panel.set(merges=128)
    panel.buttons["One more merge"].click()
    assert panel.values["merges"] == 128


def test_the_panel_of_merges_learns_from_the_text_of_the_series_by_itself():
    panel = panels.gpt_beyond.merges(num_merges=3)
    assert panel.values["merges"] == 3 and panel.error is None


def test_each_checkpoint_has_its_own_lens_sample_and_loss(monkeypatch):
    written = []
    write = panels.gpt_beyond._write_sample

    def record(fig, text):
        written.append(text)
        write(fig, text)

    monkeypatch.setattr(panels.gpt_beyond, "_write_sample", record)
    panel = make_growth()
    written.clear()
    pictures = []
    losses = []
    for k in range(1, 7):
        panel.set(checkpoint=k)
        pictures.append(picture(panel))
        before, found, loss = panel.status.value.partition(f"Step {2 ** (k - 1)} of 32: ")
        assert found, panel.status.value
        losses.append(loss)
    assert len(set(written)) == 6 and len(set(losses)) > 3
    panel.set(checkpoint=1)
    assert np.array_equal(picture(panel), pictures[0]), "going back shows the same"


def test_the_lens_of_the_last_block_is_what_the_model_says():
    model = make_model({"rows": 50})
    tokens = torch.randint(11, (9,), generator=seeded())
    with torch.no_grad():
        layers = panels.gpt_beyond._read_every_block(model, tokens)
        torch.testing.assert_close(layers[-1], model(tokens[None])[0].softmax(dim=-1))
    assert layers.shape == (3, 9, 11)


def test_a_model_with_a_short_context_is_read_as_far_as_it_goes():
    panel = make_growth(context=8)
    panel.set(text="If there is a statement, there is a context.")
    assert panel.error is None and "nats per character" in panel.status.value


def test_the_page_may_change_its_model_and_the_panel_stays():
    model = gpt_beyond.ModernGPT(len(CHARACTERS), 32, 16, 2, 2, rows=64).train()
    weights = {1: {name: weight.clone() for name, weight in model.state_dict().items()}}
    panel = panels.gpt_beyond.growing_up(model, weights, CHARACTERS, CHARACTERS.encode(TEXT[:3]))
    shown = panel.picture.value
    for weight in model.parameters():
        weight.data.normal_()
    panel.redraw()
    assert panel.picture.value == shown and model.training


# ---------------------------------------------------------------- seeded faults

page = partial(in_notebook, NAME)
panel = partial(in_panels, "gpt_beyond")

FAULTS = [
    page("merges: the rarest pair first", "pair = max(counts, key", "pair = min(counts, key"),
    page("merges: the counts are not kept up", "count(word, -1)\n", "count(word, 0)\n"),
    page(
        "encode: the latest merge first",
        "first = min(pairs, key=rank.get)",
        "first = max(pairs, key=rank.get)",
    ),
    page("glue: overlapping pairs twice", "k += 2 if together else 1", "k += 1"),
    page(
        "rotation that is none: a sign",
        "torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)",
        "torch.cat([a * cos + b * sin, a * sin + b * cos], dim=-1)",
    ),
    page(
        "rotary: a cache that starts at place 0 again",
        "start = cache.kept[self][0].shape[2] if is_later else 0",
        "start = 0 if is_later else 0",
    ),
    page(
        "chunks that see the next token",
        "before = F.pad(before, (1, 0))[:, :-1]  ",
        "before = F.pad(before, (0, 1))[:, 1:]  ",
    ),
    page(
        "chunks forget what was read before",
        "max(0, tokens.shape[1] - self.reach) :]",
        "tokens.shape[1] :]",
    ),
    page(
        "the perceptron's ReLU is not squared",
        "F.relu(inner).square()",
        "F.relu(inner)",
        "test_a_modern_block_is_its_formula",
    ),
    page(
        "QK-norm forgets the keys",
        "k = F.rms_norm(k, k.shape[-1:])",
        "k = 1 * k",
        "test_a_modern_block_is_its_formula",
    ),
    page(
        "the modern block is not causal", "is_causal = self.causal and S == T", "is_causal = False"
    ),
    page(
        "masked goal: judged on all places",
        "F.cross_entropy(logits[hide], x[hide])\n    return",
        "F.cross_entropy(logits.flatten(0, 1), x.flatten())\n    return",
        "test_the_masked_goal_asks_only_for_what_is_hidden",
    ),
    page(
        "sentence goal: labels swapped",
        "torch.where(true, x[:, half:], other[:, half:])",
        "torch.where(true, other[:, half:], x[:, half:])",
        "test_a_sentence_that_is_torn_apart_is_labelled_so",
    ),
    page(
        "replaced goal: a letter swapped for itself counts",
        "swap = swap & (letters != x)",
        "swap = swap",
        "test_the_replaced_goal_labels_what_was_swapped",
    ),
    page(
        "LoRA: both matrices start at something",
        "torch.zeros(layer.out_features, rank).to",
        "torch.ones(layer.out_features, rank).to",
    ),
    page(
        "LoRA: merged without its scale",
        "self.layer.weight + self.scale * self.up",
        "self.layer.weight + self.up",
    ),
    page(
        "Muon: momentum without Nesterov's look ahead",
        'ahead = W.grad.lerp(mean, group["momentum"])',
        "ahead = mean",
    ),
    page(
        "Muon: tall matrices get no larger step",
        "max(1.0, rows / columns) ** 0.5",
        "1.0",
    ),
    page(
        "Muon gets the embeddings",
        "for block in model.blocks for weight in block.parameters()}",
        "for block in [*model.blocks, model.token] for weight in block.parameters()}",
        "test_each_weight_has_exactly_one_optimiser_and_all_of_them_move",
    ),
    page(
        "the question is marked too",
        "asked = is_answer[:, 1:]",
        "asked = is_answer[:, :-1]",
        "test_the_answers_loss_leaves_the_question_out",
    ),
    page(
        "mark 3 lets two zeros pass",
        'check_above("some gradient arrives", B.grad.abs().sum() + A.grad.abs().sum(), 1e-6)',
        'check_above("some gradient arrives", B.grad.abs().sum() + A.grad.abs().sum(), -1)',
        "test_marks_refuse_the_bugs_of_the_exercises",
    ),
    page(
        "no merges taken for all of them",
        "learnt if num_merges is None else num_merges",
        "num_merges or learnt",
        "test_no_merges_are_bytes_and_no_text_is_no_tokens",
    ),
    page(
        "Muon stumbles over a weight without a gradient",
        "if W.grad is None:",
        "if W is None:",
        "test_a_block_frozen_after_the_optimisers_were_made_stays_as_it_is",
    ),
    page(
        "frozen weights go to an optimiser",
        "for weight in model.parameters() if weight.requires_grad]\n    if not weights:",
        "for weight in model.parameters()]\n    if not weights:",
        "test_a_frozen_part_is_left_out_and_the_rest_trains",
    ),
    page(
        "adapting twice puts LoRAs beside LoRAs",
        "layer if isinstance(layer, LoRA) else LoRA(layer, rank)",
        "LoRA(layer.layer if isinstance(layer, LoRA) else layer, rank)",
        "test_adapting_twice_gives_the_same_loras_and_they_still_train",
    ),
    page(
        "a masked loss of nothing hidden",
        "if not hide.any():",
        "if hide.all():",
        "test_the_losses_of_very_few_tokens_are_numbers",
    ),
    page(
        "more tokens than the context",
        "if end > self.context:",
        "if end > 2 * self.context:",
        "test_the_context_is_kept_and_no_tokens_are_refused",
    ),
    panel(
        "every checkpoint writes what the last one does",
        "written[step])",
        "written[steps[-1]])",
        "test_each_checkpoint_has_its_own_lens_sample_and_loss",
    ),
    panel(
        "a checkpoint is not loaded again",
        'state["step"] != step',
        'state["step"] is None',
        "test_each_checkpoint_has_its_own_lens_sample_and_loss",
    ),
    panel(
        "the lens forgets the embedding",
        "layers = [model.read_out(h)]",
        "layers = []",
        "test_the_lens_of_the_last_block_is_what_the_model_says",
    ),
    panel(
        "the panel draws with all merges",
        "tokens = pairs.encode(read, merges)",
        "tokens = pairs.encode(read)",
        "test_the_panel_of_merges_counts_as_the_tokenizer_does",
    ),
]
