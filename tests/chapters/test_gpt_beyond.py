"""03b_gpt_beyond: its exported functions beyond the page's own checks, its panels, exercises, seeded faults."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
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

GPT2_PARTS = {"norm": "layer", "rotary": False, "qk_norm": False, "mlp": "GELU"}
EXTRAS = {"previous": lambda: gpt_beyond.PreviousTokens(11, 12), "tables": lambda: gpt_beyond.NgramTables(11, 12, 50)}
MODELS = {
    "full": {},
    "with GPT-2's parts": GPT2_PARTS,
    "with tables, shared keys and SwiGLU": {"extra": "tables", "kv_heads": 1, "mlp": "SwiGLU"},
    "with previous tokens and experts": {"extra": "previous", "mlp": "experts"},
}
every_model = pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS)


def make_model(settings):
    settings = dict(settings)
    extra = EXTRAS[settings.pop("extra")]() if "extra" in settings else None
    return stirred(gpt_beyond.ModernGPT(11, 16, 12, 2, 2, extra=extra, **settings))


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


def unit(x):
    """x divided by its root mean square: eq. (3)."""
    return x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()


@torch.no_grad()
def test_a_modern_block_is_its_formula():
    """Eq. (8) of 03 with eq. (3), (4), (5) and the square of a ReLU; one head."""
    torch.manual_seed(0)
    block = stirred(gpt_beyond.ModernBlock(8, 1))
    h = torch.randn(1, 5, 8)
    inputs = unit(h) * block.norm1.weight
    q, k, v = (getattr(block.attention, name)(inputs) for name in "qkv")
    q, k = (gpt_beyond.rotate(unit(x)[:, None])[:, 0] for x in (q, k))
    middle = h + block.attention.out(gpt.attention(q, k, v, gpt.causal_mask(5))[0])
    inner = block.mlp.up(unit(middle) * block.norm2.weight)
    want = middle + block.mlp.down(inner * (inner > 0) * inner)
    torch.testing.assert_close(block(h), want, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_without_the_mask_a_position_takes_from_later_ones():
    layer = gpt_beyond.ModernAttention(8, 2, causal=False)
    h = torch.randn(1, 5, 8, generator=seeded())
    changed = h.clone()
    changed[0, 4] += 1
    assert (layer(changed) - layer(h))[0, 0].abs().max() > 1e-4


def test_experts_take_every_position_to_its_own_mlp_and_count_the_loads():
    torch.manual_seed(1)
    mixture = gpt_beyond.Experts(6, 3)
    h = torch.randn(4, 9, 6)
    out = mixture(h)
    flat = h.view(-1, 6)
    p = (flat @ mixture.router.weight.T).softmax(dim=1)
    who = p.argmax(dim=1)
    want = torch.stack([p[n, e] * mixture.experts[e](flat[n]) for n, e in enumerate(who.tolist())])
    torch.testing.assert_close(out, want.view_as(h), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixture.load, who.bincount(minlength=3) / 36)
    mixture.balance.backward(retain_graph=True)
    assert mixture.router.weight.grad.abs().sum() > 0, "the balance reaches the router"
    before = mixture.router.weight.grad.clone()
    out.sum().backward()
    assert not torch.equal(before, mixture.router.weight.grad), "so does the loss of the text"


def test_balance_losses_are_added_over_blocks_and_none_is_zero():
    model = make_model({"mlp": "experts"})
    model(torch.zeros(1, 5).long())
    want = sum(block.mlp.balance for block in model.blocks)
    torch.testing.assert_close(gpt_beyond.balance_loss(model), want)
    assert gpt_beyond.balance_loss(model) == 0, "it has been taken"
    assert gpt_beyond.balance_loss(make_model({})) == 0


@pytest.mark.parametrize("balance", [0.0, 0.01])
def test_a_model_with_experts_can_be_copied_between_two_steps(balance):
    model, opts = gpt_beyond.make_variant("4 experts for one MLP", 9, 0, None, 8, 16, 1)
    batch = torch.arange(36).view(4, 9) % 9
    gpt_beyond.train_step(model, opts, batch, torch.device("cpu"), balance)
    copied = copy.deepcopy(model)
    torch.testing.assert_close(copied.blocks[0].mlp.load, model.blocks[0].mlp.load)


def test_learned_positions_begin_as_quiet_as_asked():
    torch.manual_seed(0)
    model = gpt_beyond.ModernGPT(11, 256, 64, rotary=False, position_start=0.02)
    assert model.position.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_a_step_with_experts_trains_the_router_by_its_balance():
    moved = {}
    for balance in (0.0, 100.0):
        model, opts = gpt_beyond.make_variant("4 experts for one MLP", 9, 0, None, 8, 16, 1)
        batch = torch.arange(36).view(4, 9) % 9
        gpt_beyond.train_step(model, opts, batch, torch.device("cpu"), balance)
        moved[balance] = model.blocks[0].mlp.router.weight.clone()
    assert not torch.equal(moved[0.0], moved[100.0])


def test_an_expert_without_a_position_is_no_error():
    mixture = gpt_beyond.Experts(6, 4)
    assert mixture(torch.randn(1, 1, 6)).shape == (1, 1, 6)
    assert mixture.load.sum() == 1


@pytest.mark.parametrize("name", gpt_beyond.VARIANTS)
def test_every_variant_trains(name):
    model, opts = gpt_beyond.make_variant(name, 9, 0, context=8, width=16, num_blocks=1)
    tokens = torch.arange(200) % 9
    gpt_beyond.train_for(model, opts, tokens, 30, 4, 0)
    with torch.no_grad():
        assert gpt.next_token_loss(model, tokens[:9][None]).item() < 1.5
    assert not model.training


def test_the_same_seed_trains_the_same_and_equal_parts_start_equal():
    ends = []
    for _ in range(2):
        model, opts = gpt_beyond.make_variant("the baseline", 9, 3, context=8, width=16)
        gpt_beyond.train_for(model, opts, torch.arange(200) % 9, 3, 4, 0)
        ends.append(model.head.weight.clone())
    assert torch.equal(*ends)
    one, _ = gpt_beyond.make_variant("the baseline", 9, 3)
    other, _ = gpt_beyond.make_variant("with n-gram tables", 9, 3)
    assert torch.equal(one.blocks[3].attention.q.weight, other.blocks[3].attention.q.weight)


def test_a_variant_that_is_none_is_one_message():
    with pytest.raises(ValueError, match="make_variant: unknown name 'GPT-9'"):
        gpt_beyond.make_variant("GPT-9", 9, 0)


@pytest.mark.parametrize("muon", [True, False])
def test_each_weight_has_exactly_one_optimiser_and_all_of_them_move(muon):
    model = make_model({"extra": "tables"})
    opts = gpt_beyond.make_optimizers(model, muon)
    owned = [id(weight) for opt in opts for group in opt.param_groups for weight in group["params"]]
    assert sorted(owned) == sorted(id(weight) for weight in model.parameters())
    of_matrices = {id(weight) for group in opts[1].param_groups for weight in group["params"]}
    matrices = {id(w) for w in model.blocks.parameters() if w.ndim == 2}
    assert of_matrices == matrices, "no embedding, no table, no norm, no head"
    assert isinstance(opts[1], gpt_beyond.Muon) == muon
    before = [weight.clone() for weight in model.parameters()]
    gpt_beyond.set_rates(opts, 5, 100)
    gpt_beyond.train_step(
        model, opts, torch.randint(11, (4, 17), generator=seeded()), torch.device("cpu")
    )
    assert all(
        not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)
    )


def test_the_rates_rise_stay_and_fall_to_nearly_zero():
    opts = gpt_beyond.make_optimizers(gpt_beyond.ModernGPT(11, 16, 12, 2, 1))
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
    model = gpt_beyond.ModernGPT(5, 8, 16, 2, 1)
    opts, batch = gpt_beyond.make_optimizers(model), torch.arange(36).view(4, 9) % 5
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


ODD_SHAPES = {
    "heads wider than the width": {"head_dim": 16, "inner": 40, "kv_heads": 1},
    "narrow heads, experts": {"head_dim": 2, "inner": 5, "mlp": "experts"},
    "a gate of an odd inner width": {"head_dim": 8, "inner": 7, "mlp": "SwiGLU"},
}


@pytest.mark.parametrize("changes", ODD_SHAPES.values(), ids=ODD_SHAPES)
def test_heads_and_mlps_of_any_width(changes):
    model = make_model(changes)
    d, inner = changes["head_dim"], changes["inner"]
    block = model.blocks[0]
    assert block.attention.q.weight.shape == (2 * d, 12)
    assert block.attention.out.weight.shape == (12, 2 * d)
    assert block.attention.k.weight.shape == (changes.get("kv_heads", 2) * d, 12)
    mlp = block.mlp.experts[0] if changes.get("mlp") == "experts" else block.mlp
    assert mlp.up.weight.shape == (inner, 12) and mlp.down.weight.shape == (12, inner)
    causal_models.assert_pieces_make_the_whole(model, causal_models.CUTS[0])
    causal_models.assert_causal(model)


def test_without_a_width_of_its_own_a_head_is_its_share_of_the_width():
    torch.manual_seed(0)
    plain = gpt_beyond.ModernGPT(11, 16, 12, 2, 1, mlp="SwiGLU")
    torch.manual_seed(0)
    said = gpt_beyond.ModernGPT(11, 16, 12, 2, 1, mlp="SwiGLU", head_dim=6, inner=32)
    for one, other in zip(plain.parameters(), said.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_vocabulary_too_large_to_hash_is_refused():
    with pytest.raises(ValueError, match="NgramTables: vocab must be a whole number from 1 to 1,?500"):
        gpt_beyond.NgramTables(1501, 2)
    last = torch.full((1, 3), 1499)
    assert (gpt_beyond.NgramTables(1500, 1).numbers(last)[1] >= 0).all()
    assert 1500**3 * 2654435761 < 2**63


def test_names_of_llama_that_we_have_not_are_refused():
    assert gpt_beyond.rename_llama("model.layers.11.mlp.up_proj.weight") == "blocks.11.mlp.up.weight"
    assert gpt_beyond.rename_llama("model.layers.2.self_attn.k_norm.weight") == "blocks.2.attention.key_scale"
    for name in ("model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.sinks.weight"):
        with pytest.raises(ValueError, match="ModernGPT has no place for the weights"):
            gpt_beyond.rename_llama(name)


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
        pieces = [gpt_beyond.merge_pair(piece, merges[-1], new) for piece in pieces]
    assert gpt_beyond.learn_merges(text, num_merges) == merges


def test_no_merges_are_bytes_and_no_text_is_no_tokens():
    plain = gpt_beyond.BytePairs("", 0)
    assert plain.encode("") == [] and plain.decode([]) == "" and len(plain) == 257
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


@pytest.mark.parametrize("token", [-1, 281, 1.0])
def test_tokens_that_the_vocabulary_does_not_have(token):
    with pytest.raises(ValueError, match="decode: a token must be a whole number from 0 to 280"):
        PAIRS.decode([97, token])


@given(st.lists(st.text(alphabet=LETTERS, max_size=20), max_size=4))
def test_documents_come_back_one_by_one_from_their_ends(documents):
    tokens = PAIRS.encode_documents(documents)
    assert tokens.count(PAIRS.end) == len(documents)
    found = [[]]
    for token in tokens:
        if token == PAIRS.end:
            found.append([])
        else:
            found[-1].append(token)
    assert [PAIRS.decode(document) for document in found[:-1]] == documents
    assert PAIRS.decode(tokens) == "".join(documents), "the end of text has no bytes"


def test_bits_per_byte_count_bytes():
    assert gpt_beyond.bits_per_byte(6 * math.log(256), "你好") == pytest.approx(8.0)


def test_half_a_character_is_refused_in_a_sentence_and_half_a_token_is_a_sign():
    with pytest.raises(ValueError, match="has half a character in it: leave it out"):
        PAIRS.encode("a \ud83d b")
    assert PAIRS.decode([0xE4]) == "\ufffd"


# ---------------------------------------------------------------- models at their edges


@pytest.mark.parametrize("model_settings", [{}, GPT2_PARTS], ids=["modern", "GPT-2's"])
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
    model = stirred(gpt_beyond.ModernGPT(11, 1, 12, 2, 1, extra=EXTRAS["tables"]()))
    for use_cache in (True, False):
        written = gpt.generate(model, torch.tensor([[3]]), 5, seeded(), use_cache)
        assert written.shape == (1, 6)


BAD_MODELS = {
    "heads that do not fit": ({"width": 12, "num_heads": 5}, "width 12 is not 5 equal heads"),
    "no heads": ({"num_heads": 0}, "num_heads must be a whole number of at least 1"),
    "odd heads to rotate": ({"width": 6, "num_heads": 2}, "heads of 3 cannot be cut into pairs"),
    "odd heads of one's own": ({"head_dim": 5}, "heads of 5 cannot be cut into pairs"),
    "heads of no width": ({"head_dim": 0}, "head_dim must be a whole number of at least 1"),
    "no inner width": ({"inner": 0}, "inner must be a whole number of at least 1"),
    "no context": ({"context": 0}, "context must be a whole number of at least 1"),
    "keys that cannot be shared": ({"kv_heads": 3}, "2 heads cannot share 3 KV heads"),
    "no heads of keys": ({"kv_heads": 0}, "kv_heads must be a whole number of at least 1"),
    "an unknown MLP": ({"mlp": "ReLU"}, "unknown mlp 'ReLU'; choose one of squared ReLU"),
    "an unknown norm": ({"norm": "batch"}, "unknown norm 'batch'"),
}


@pytest.mark.parametrize(("changes", "message"), BAD_MODELS.values(), ids=BAD_MODELS)
def test_sizes_that_make_no_model(changes, message):
    sizes = {"context": 16, "width": 12, "num_heads": 2, "num_blocks": 1} | changes
    with pytest.raises(ValueError, match=message):
        gpt_beyond.ModernGPT(11, **sizes)


def test_odd_heads_are_fine_without_rotation_and_rotate_says_so_itself():
    gpt_beyond.ModernGPT(11, 16, 6, 2, 1, rotary=False)
    with pytest.raises(ValueError, match="rotate: the width of a head must be even"):
        gpt_beyond.rotate(torch.zeros(1, 1, 4, 3))


def test_rows_of_tables_stay_inside_the_table_and_are_those_of_pairs_and_triples():
    tokens = torch.tensor([[0, 66, 66, 66, 17, 66, 66]])
    for rows in (1, 7, 32_768):
        pair, triple = gpt_beyond.NgramTables(67, 8, rows).numbers(tokens)
        assert pair.tolist()[0][1:3] == [66, 66 * 67 + 66] and pair.max() < 67**2
        assert triple.shape == tokens.shape and triple.min() >= 0 and triple.max() < rows
    assert len(set(triple[0, 2:].tolist())) == 5, "five different triples"
    assert gpt_beyond.shifted(tokens, 2).tolist() == [[0, 0, 0, 66, 66, 66, 17]]


def test_triples_are_dropped_in_training_only():
    tables = gpt_beyond.NgramTables(11, 12, 50, dropout=0.9)
    tokens = torch.arange(9)[None]
    assert not torch.equal(tables.train()(tokens), tables(tokens))
    assert torch.equal(tables.eval()(tokens), tables(tokens))


# ---------------------------------------------------------------- sampling from these models


def test_the_settings_of_the_sampler_reach_it():
    model = make_model({})
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
        gpt.generate(make_model({}), torch.tensor([[1]]), 2, seeded(), **wrong)


# ---------------------------------------------------------------- optimisers


def small():
    torch.manual_seed(0)
    return gpt_beyond.ModernGPT(9, context=8, width=16, num_heads=2, num_blocks=2)


BATCH = torch.randint(9, (4, 9), generator=seeded(2))


@pytest.mark.parametrize("muon", [True, False])
@pytest.mark.parametrize("frozen", ["blocks.0", "blocks", "token", "head"])
def test_a_frozen_part_is_left_out_and_the_rest_trains(muon, frozen):
    model = small()
    model.get_submodule(frozen).requires_grad_(False)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    opts = gpt_beyond.make_optimizers(model, muon)
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
        opts = gpt_beyond.make_optimizers(model, muon)
        model.blocks[0].requires_grad_(False)
        before = [weight.clone() for weight in model.blocks[0].parameters()]
        losses.append(gpt_beyond.train_step(model, opts, BATCH, "cpu").item())
        after = model.blocks[0].parameters()
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert losses[0] == losses[1]


def test_a_model_with_nothing_to_train_is_one_message():
    model = small().requires_grad_(False)
    with pytest.raises(ValueError, match="make_optimizers: every weight is frozen"):
        gpt_beyond.make_optimizers(model)


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
    opts = gpt_beyond.make_optimizers(small())
    with pytest.raises(ValueError, match="set_rates: (step|num_steps) must be a whole number"):
        gpt_beyond.set_rates(opts, step, num_steps)


def test_a_run_of_one_step_has_a_rate():
    opts = gpt_beyond.make_optimizers(small())
    gpt_beyond.set_rates(opts, 1, 1)
    assert [opt.param_groups[0]["lr"] for opt in opts] == [5e-3, 0.02]


# ---------------------------------------------------------------- exercises

ANSWERS = [  # (an answer that is right, those that are wrong), in the page's order
    (
        """
def encode_piece(tokens, merges):
    new = 256
    while merges:
        tokens[:] = merge_pair(tokens, merges.pop(0), new)
        new += 1
    return tokens
""",
        """
def encode_piece(tokens, merges):
    while merges:
        tokens[:] = merge_pair(tokens, merges.pop(), 256 + len(merges))
    return tokens
""",
        """
def encode_piece(tokens, merges):
    rank = {pair: m for m, pair in enumerate(merges)}
    k = 0
    while k < len(tokens) - 1:
        pair = tuple(tokens[k : k + 2])
        if pair in rank:
            tokens = tokens[:k] + [256 + rank[pair]] + tokens[k + 2 :]
            k = 0
        else:
            k += 1
    return tokens
""",
    ),
    (
        """
def bits_of(loss_per_token, num_tokens, text):
    return bits_per_byte(loss_per_token * num_tokens, text)
""",
        """
def bits_of(loss_per_token, num_tokens, text):
    return loss_per_token * num_tokens / math.log(2) / len(text)
""",
        """
def bits_of(loss_per_token, num_tokens, text):
    return loss_per_token * num_tokens / len(text.encode())
""",
    ),
    (
        """
def scores_of_new_position(q, new_k, old_k):
    q.copy_(rotate(q, len(old_k)))
    new_k.copy_(rotate(new_k, len(old_k)))
    return (torch.cat([old_k, new_k]) @ q.T)[:, 0]
""",
        """
def scores_of_new_position(q, new_k, old_k):
    return (torch.cat([old_k, rotate(new_k)]) @ rotate(q).T)[:, 0]
""",
        """
def scores_of_new_position(q, new_k, old_k):
    return (torch.cat([old_k, rotate(new_k)]) @ rotate(q, len(old_k)).T)[:, 0]
""",
    ),
    (
        """
def read_row(variant, baseline, t=4.303):
    apart = torch.tensor(variant).double() - torch.tensor(baseline).double()
    half = t * apart.std() / len(apart) ** 0.5
    return apart.mean(), half, int(apart.mean().abs() > half)
""",
        """
def read_row(variant, baseline, t=4.303):
    one, other = torch.tensor(variant).double(), torch.tensor(baseline).double()
    half = t * ((one.var() + other.var()) / len(one)) ** 0.5
    return (one - other).mean(), half, int((one - other).mean().abs() > half)
""",
        """
def read_row(variant, baseline, t=4.303):
    apart = torch.tensor(variant).double() - torch.tensor(baseline).double()
    half = t * apart.std()
    return apart.mean(), half, int(apart.mean().abs() > half)
""",
    ),
    (
        """
def plan(C, P, blocks, width, batch, context, alpha, beta):
    per_step = (6 * P + 12 * blocks * context * width) * batch * context
    return math.floor(C / per_step), alpha / C**beta
""",
        """
def plan(C, P, blocks, width, batch, context, alpha, beta):
    return math.floor(C / (6 * P * batch * context)), alpha / C**beta
""",
        """
def plan(C, P, blocks, width, batch, context, alpha, beta):
    per_step = (6 * P + 12 * blocks * context * width) * batch
    return math.floor(C / per_step), alpha / C**beta
""",
        """
def plan(C, P, blocks, width, batch, context, alpha, beta):
    per_step = (6 * P + 12 * blocks * context * width) * batch * context
    return math.floor(C / per_step), alpha * C**beta
""",
    ),
    (
        """
OPEN_STEPS = 150


def my_gpt(vocab):
    model = ModernGPT(vocab, 64, 64, extra=PreviousTokens(vocab, 64), qk_scale=True)
    return model, make_optimizers(model)
""",
        """
OPEN_STEPS = 150


def my_gpt(vocab):
    model = ModernGPT(vocab, 64, 64)
    return model, make_optimizers(model)
""",
    ),
]


def test_marks_refuse_wrong_answers():
    assert_marked(NAME, dict(enumerate(ANSWERS, start=1)))


@pytest.mark.exhaustive
def test_the_open_mark_refuses_what_it_should():
    assert_marked(NAME, dict(enumerate(ANSWERS, start=1)), only_open=True)


@pytest.fixture(scope="module")
def page():
    """The page's namespace, with what its set-up and its marks define."""
    space = run_cells(NAME, ("setup", "export"))
    run_marks(NAME, space)
    return space


OPEN = {
    "too many weights": ("ModernGPT(vocab, 64, 80)", "weights"),
    "another context": ("ModernGPT(vocab, 32, 64)", "model.context"),
    "sees the future": ("ModernGPT(vocab, 64, 64, causal=False)", "before it"),
}


@pytest.mark.parametrize(("made", "message"), OPEN.values(), ids=OPEN)
def test_the_open_mark_refuses_what_breaks_its_rules(page, made, message):
    space = dict(page)
    exec(f"def my_gpt(vocab):\n    model = {made}\n    for w in model.parameters():\n        torch.nn.init.normal_(w, std=0.2)\n    return model, make_optimizers(model)", space)
    with pytest.raises(CheckFailed, match=message):
        page["mark_6"](space["my_gpt"])


# ---------------------------------------------------------------- panels

TEXT = load_text(verbose=False).text[:30_000]
CHARACTERS = gpt.Characters(TEXT)


def make_merges():
    return panels.gpt_beyond.merges(TEXT, num_merges=128)


def make_growth(context=32):
    model = gpt_beyond.ModernGPT(len(CHARACTERS), context, 16, 2, 2)
    checkpoints = {}
    for step in (1, 2, 4, 8, 16, 32):
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3, generator=seeded(step))
        weights = model.state_dict()
        checkpoints[step] = {name: weight.bfloat16() for name, weight in weights.items()}
    opening = CHARACTERS.encode(TEXT[:3])
    return panels.gpt_beyond.growing_up(model, checkpoints, CHARACTERS, opening)


MAKERS = {"merges": make_merges, "rotary": panels.gpt_beyond.rotary, "growing_up": make_growth}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def test_every_control_and_button_draws_once_and_all_can_be_read(make):
    use_every_control(make())


def test_a_move_is_answered_within_100_ms(make):
    panel = make()
    for key in ("merges", "checkpoint", "position", "distance"):
        if key in panel.controls:
            control = panel.controls[key]
            for value in (control.min, control.max):
                assert answers_within(panel, 100, **{key: value}), f"{panel.title}, {key}: {value}"


@pytest.mark.exhaustive
def test_two_panels_of_a_kind_moved_at_once_draw_what_each_would_alone(make):
    assert moved_together(make) == 0


def test_a_storyboard_is_the_same_each_time(make):
    assert make()._storyboard == make()._storyboard


@pytest.mark.parametrize("words", WORDS, ids=[ascii(words[:20]) for words in WORDS])
def test_a_reader_may_type_anything(make, words):
    panel = make()
    if "text" not in panel.controls:
        pytest.skip("it has no text to type")
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
    model = make_model({})
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
    model = gpt_beyond.ModernGPT(len(CHARACTERS), 32, 16, 2, 2).train()
    weights = {1: {name: weight.clone() for name, weight in model.state_dict().items()}}
    panel = panels.gpt_beyond.growing_up(model, weights, CHARACTERS, CHARACTERS.encode(TEXT[:3]))
    shown = panel.picture.value
    for weight in model.parameters():
        weight.data.normal_()
    panel.redraw()
    assert panel.picture.value == shown and model.training


def test_the_score_of_the_rotary_panel_feels_the_distance_only():
    panel = panels.gpt_beyond.rotary()

    def score(position, distance):
        panel.set(position=position, distance=distance)
        return panel.status.value.partition("pairs is ")[2].partition(".</")[0][:5]

    assert score(70, 9) == score(150, 9) == score(9, 9) != score(70, 10)
    assert score(3, 9) == score(70, 9), "a key in front of the text: the query moves on"


def test_pictures_of_the_stored_tables_are_drawn():
    rows = {
        "the baseline": {"difference": "", "± standard error": ""},
        "worse": {"difference": "+0.100", "± standard error": "0.010"},
        "the same": {"difference": "-0.001", "± standard error": "0.010"},
    }
    fig = panels.gpt_beyond.parts_picture(rows)
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["the same", "worse"]
    keys = ("width", "compute, FLOP", "validation loss", "standard deviation")
    runs = [dict(zip(keys, row, strict=True)) for row in ((32, 1e9, 2.5, 0.02), (48, 2e9, 2.4, 0.01))]
    held_out = dict(zip(keys, (64, 8e9, 2.2, 0.01), strict=True))
    fig = panels.gpt_beyond.scaling_picture(runs, held_out, {"both": (5.0, 0.03)}, 0.02)
    words = [text.get_text() for text in fig.axes[0].get_legend().get_texts()]
    assert words[:2] == ["line: both", "width 64, held out"]
    assert {"width 32", "width 48", "prediction, ± its standard error"} < set(words)
    assert panels.gpt_beyond.two_blocks().axes


def test_pictures_of_trainings_show_what_they_are_given():
    curves = {"validation": {1: 4.0, 4: 3.2}, "held back": {1: 4.1, 4: 3.0}}
    fig = panels.gpt_beyond.training_picture([4.0, 3.0, 2.5, 2.0], curves, {"uniform": 4.3})
    training = fig.axes[0].lines[1].get_ydata()
    assert training == pytest.approx([4.0, 3.0, 2.5, 2.0]), "so early no step has others around it"
    assert panels.gpt_beyond._mean_around(list(range(100)), 40) == pytest.approx(39.5, abs=1)
    row = {"by the way": "5.0: 3.1, 9.9: 2.9", "bits per byte, bigram": "3.6"}
    row["bits per byte, trigram"] = "2.9"
    fig = panels.gpt_beyond.race_picture({"characters": row, "byte pairs": row})
    assert list(fig.axes[0].lines[0].get_xdata()) == [5.0, 9.9]
    loads = {(name, seed): torch.full((3, 2), 40.0 + seed) for name in ("with", "without") for seed in (0, 1)}
    fig = panels.gpt_beyond.loads_picture(loads)
    assert len(fig.axes) == 2 and list(fig.axes[1].lines[0].get_xdata()) == [0, 10, 20]


# ---------------------------------------------------------------- seeded faults

page_fault = partial(in_notebook, NAME)
panel = partial(in_panels, "gpt_beyond")
MARKS = "test_marks_refuse_wrong_answers"

FAULTS = [
    page_fault("merges: the rarest pair first", "best = max(self.counts,", "best = min(self.counts,"),
    page_fault(
        "merges: the counts are not kept up",
        "self.count(word, -self.frequency[word])            # its",
        "self.count(word, 0)            # its",
    ),
    page_fault(
        "encode: the latest merge first",
        "first = min(pairs, key=rank.get)",
        "first = max(pairs, key=rank.get)",
    ),
    page_fault("merge_pair: overlapping pairs twice", "            k += 2\n", "            k += 1\n"),
    page_fault("no end behind a document", "            tokens.append(self.end)\n", ""),
    page_fault(
        "bits per byte that count characters",
        "return nats / math.log(2) / len(text.encode())",
        "return nats / math.log(2) / len(text)",
    ),
    page_fault(
        "rotation that is none: a sign",
        "torch.cat([u * cos - v * sin, u * sin + v * cos], dim=-1)",
        "torch.cat([u * cos + v * sin, u * sin + v * cos], dim=-1)",
    ),
    page_fault(
        "rotary: a cache that starts at position 0 again",
        "start = cache.kept[self][0].shape[2] if is_later else 0",
        "start = 0 if is_later else 0",
    ),
    page_fault(
        "rotary: values turn, too",
        "k = rotate(k, start, self.rope_theta)\n        return q, k, v",
        "k = rotate(k, start, self.rope_theta)\n        return q, k, rotate(v, start)",
        "test_a_modern_block_is_its_formula",
    ),
    page_fault(
        "QK-norm forgets the keys",
        "            k = F.rms_norm(k, (d,), eps=self.eps)\n",
        "",
        "test_a_modern_block_is_its_formula",
    ),
    page_fault("the learnt scale is not used", "q = q * self.scale.to(q.dtype)", "q = 1.0 * q"),
    page_fault(
        "the norm at the entrance has no switch",
        "eps=self.eps) if self.entrance_norm else h",
        "eps=self.eps)",
    ),
    page_fault(
        "shared heads in the wrong order",
        "k = k.repeat_interleave(shared, dim=1)",
        "k = k.repeat(1, shared, 1, 1)",
    ),
    page_fault(
        "scores are not divided",
        "scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])\n        if self.causal:",
        "scores = q @ k.transpose(-2, -1)\n        if self.causal:",
    ),
    page_fault("the learnt scale of keys is not used", "k = k * self.key_scale.to(k.dtype)", "k = 1.0 * k"),
    page_fault(
        "every model turns by the same angles",
        "k = rotate(k, start, self.rope_theta)",
        "k = rotate(k, start)",
    ),
    page_fault(
        "the balance stays on its module",
        "            total = total + part.balance\n            part.balance = None\n",
        "            total = total + part.balance\n",
        "test_a_model_with_experts_can_be_copied_between_two_steps",
    ),
    page_fault(
        "learned positions begin loud",
        "nn.init.normal_(self.position.weight, std=position_start)",
        "nn.init.normal_(self.position.weight, std=1.0)",
        "test_learned_positions_begin_as_quiet_as_asked",
    ),
    page_fault(
        "a head is always its share of the width",
        "d = width // num_heads if head_dim is None else head_dim",
        "d = width // num_heads + 0 * (head_dim or 0)",
    ),
    page_fault("the inner width is not passed on", "return SwiGLU(width, inner)", "return SwiGLU(width)"),
    page_fault(
        "a prediction without the pull of its line",
        "pull = 1 / len(x) + (math.log(C) - x.mean()) * share",
        "pull = 1 / len(x) + 0 * C * share",
    ),
    page_fault("attention is not causal", "        if self.causal:  ", "        if False:  "),
    page_fault("the MLP's ReLU is not squared", "F.relu(inner).square() if", "F.relu(inner) if"),
    page_fault(
        "the gate has no SiLU", "F.silu(self.gate(h)) * self.up(h)", "self.gate(h) * self.up(h)"
    ),
    page_fault(
        "SwiGLU as wide as the plain MLP",
        "inner = 8 * round(width / 3) if inner",
        "inner = 4 * width if inner",
    ),
    page_fault(
        "experts: the router's factor is missing",
        "made = expert(flat[where]) * p[where, number, None]",
        "made = expert(flat[where])",
    ),
    page_fault(
        "experts: balance without the loads",
        "(self.load * p.mean(dim=0)).sum()",
        "(p.mean(dim=0) * p.mean(dim=0)).sum()",
    ),
    page_fault(
        "experts: the balance is not part of what is trained",
        "total = loss + balance * balance_loss(model)",
        "total = loss",
        "test_a_step_with_experts_trains_the_router_by_its_balance",
    ),
    page_fault(
        "tables that see the next token",
        "return F.pad(tokens, (back, 0))[:, : tokens.shape[1]]",
        "return F.pad(tokens, (0, back))[:, back:]",
    ),
    page_fault(
        "tables forget what was read before",
        "cache.tokens = tokens[:, max(0, tokens.shape[1] - reach) :]",
        "cache.tokens = tokens[:, tokens.shape[1] + 0 * reach :]",
    ),
    page_fault(
        "triples without dropout",
        "thin = F.dropout(self.triples(triple), self.dropout, self.training)",
        "thin = self.triples(triple)",
        "test_triples_are_dropped_in_training_only",
    ),
    page_fault(
        "more tokens than the context",
        "if end > self.context:",
        "if end > 2 * self.context:",
        "test_the_context_is_kept_and_no_tokens_are_refused",
    ),
    page_fault(
        "Muon: momentum without Nesterov's look ahead",
        "ahead.append(W.grad.lerp(mean, momentum).flatten(1))",
        "ahead.append(mean.flatten(1))",
    ),
    page_fault(
        "Muon: tall matrices get no larger step", "max(1.0, rows / columns) ** 0.5", "1.0"
    ),
    page_fault(
        "Muon: all matrices of a stack divided by one norm",
        "X.norm(dim=(-2, -1), keepdim=True)",
        "X.norm()",
    ),
    page_fault(
        "Muon stumbles over a weight without a gradient",
        "if W.grad is not None:",
        "if W is not None:",
        "test_a_block_frozen_after_the_optimisers_were_made_stays_as_it_is",
    ),
    page_fault(
        "Muon gets the embeddings",
        "for block in model.blocks for weight in block.parameters()}",
        "for block in [*model.blocks, model.token] for weight in block.parameters()}",
        "test_each_weight_has_exactly_one_optimiser_and_all_of_them_move",
    ),
    page_fault(
        "frozen weights go to an optimiser",
        "for weight in model.parameters() if weight.requires_grad]\n    if not weights:",
        "for weight in model.parameters()]\n    if not weights:",
        "test_a_frozen_part_is_left_out_and_the_rest_trains",
    ),
    page_fault(
        "the line of scaling has another slope",
        "beta = -((x - x.mean()) * (y - y.mean())).sum()",
        "beta = -((x - x.mean()) * (y - y.mean())).sum() / 2",
    ),
    page_fault(
        "Llama: keys and values swapped",
        '"self_attn.k_proj": "attention.k.weight",\n    "self_attn.v_proj": "attention.v.weight",',
        '"self_attn.k_proj": "attention.v.weight",\n    "self_attn.v_proj": "attention.k.weight",',
    ),
    page_fault(
        "no merges taken for all of them",
        "learnt if num_merges is None else num_merges",
        "num_merges or learnt",
        "test_no_merges_are_bytes_and_no_text_is_no_tokens",
    ),
    page_fault(
        "mark 2 divides by characters",
        "math.log2(600) / 6)",
        "math.log2(600) / 2)",
        MARKS,
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
    panel(
        "the panel's key does not turn with the query",
        "turned_k = rotate(k, position - distance)",
        "turned_k = rotate(k, distance)",
        "test_the_score_of_the_rotary_panel_feels_the_distance_only",
    ),
]
