"""03_gpt: its exported functions and models at their limits, its marks, its panels."""

import math
import threading
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from aigc_helpers import panels, weights
from aigc_helpers.checks import CheckFailed
from aigc_helpers.models import gpt
from tests import causal_models
from tests.causal_models import seeded, stirred
from tests.marking import run_marks
from tests.notebook_cells import run_cells
from tests.panel_checks import (
    WORDS,
    answers_within,
    check_drawing,
    moved_together,
    picture,
    use_every_control,
)
from tests.seeded_faults import Fault, in_notebook, in_panels
from tools.experiments import gpt_open

# In the browser: the attention lens opens on the head to which this button leads.
NOTHING_TO_SEE = {"the head most one back"}


def make_model():
    return stirred(gpt.GPT(11, 16, 12, 2, 2))


@pytest.mark.parametrize("cuts", causal_models.CUTS)
def test_in_pieces_with_a_cache_the_logits_are_those_of_the_whole(cuts):
    causal_models.assert_pieces_make_the_whole(make_model(), cuts)


def test_no_logit_feels_a_later_token():
    causal_models.assert_causal(make_model())


def test_the_same_text_is_written_with_and_without_the_cache_and_beyond_the_context():
    causal_models.assert_cache_changes_no_text(make_model())


def test_beyond_the_context_the_model_refuses_with_one_clear_message():
    model = gpt.GPT(11, 8, 12, 2, 1)
    with pytest.raises(ValueError, match="9 tokens are more than the context of 8 holds"):
        model(torch.zeros(1, 9, dtype=torch.long))


class Clock(torch.nn.Module):
    """Sure that the token after n is n + 1."""

    context = 8

    def forward(self, tokens, cache=None):
        return 50.0 * F.one_hot((tokens + 1) % 11, 11).float()


def test_the_next_token_is_drawn_from_the_last_position():
    assert gpt.generate(Clock(), torch.tensor([[3]]), 6, use_cache=False)[0].tolist() == [
        3,
        4,
        5,
        6,
        7,
        8,
        9,
    ]


def test_a_row_that_has_written_its_end_is_filled_and_all_stop_with_the_last_one():
    start = torch.tensor([[3], [6], [0]])
    end = torch.tensor([7, 8])
    out = gpt.generate(Clock(), start, 20, use_cache=False, end=end)
    assert out.tolist() == [
        [3, 4, 5, 6, 7, 8, 8, 8, 8],
        [6, 7, 8, 8, 8, 8, 8, 8, 8],
        [0, 1, 2, 3, 4, 5, 6, 7, 8],
    ]


def test_an_end_that_is_only_in_the_prompt_ends_nothing():
    out = gpt.generate(Clock(), torch.tensor([[7, 8]]), 3, use_cache=False, end=torch.tensor([7, 8]))
    assert out.tolist() == [[7, 8, 9, 10, 0]]
    half = gpt.generate(Clock(), torch.tensor([[6, 7]]), 3, use_cache=False, end=torch.tensor([7, 8]))
    assert half.tolist() == [[6, 7, 8, 9, 10]], "its first half was given, not written"


def test_rows_without_an_end_are_written_as_before():
    model = make_model()
    start = torch.tensor([[1, 2], [3, 4]])
    never = torch.tensor([99])
    ended = gpt.generate(model, start, 9, seeded(), end=never)
    assert torch.equal(ended, gpt.generate(model, start, 9, seeded()))


def test_the_cache_counts_what_it_has_read_and_is_emptied_when_the_context_is_full():
    model = make_model()
    cache = gpt.Cache()
    assert len(cache) == 0
    tokens = torch.randint(11, (2, 16), generator=seeded())
    with torch.no_grad():
        whole = gpt.next_logits(model, tokens, cache)
        torch.testing.assert_close(whole, gpt.next_logits(model, tokens))
        assert len(cache) == 16
        longer = torch.cat([tokens, tokens[:, :1]], dim=1)
        torch.testing.assert_close(gpt.next_logits(model, longer, cache), model(longer[:, -8:])[:, -1])
    assert len(cache) == 8


def test_the_head_is_the_token_embedding():
    model = make_model()
    assert not any("head" in name for name, _ in model.named_parameters())
    h = torch.randn(1, 3, 12, generator=seeded())
    want = model.norm(h) @ model.token.weight.T
    torch.testing.assert_close(model.read_out(h), want)


def test_the_mlp_works_on_each_position_by_itself():
    torch.manual_seed(0)
    mlp = gpt.MLP(6)
    h = torch.randn(2, 4, 6, generator=seeded())
    torch.testing.assert_close(mlp(h)[:, 2], mlp(h[:, 2]))
    inner = F.gelu(h @ mlp.up.weight.T + mlp.up.bias, approximate="tanh")
    torch.testing.assert_close(mlp(h), inner @ mlp.down.weight.T + mlp.down.bias)


def test_characters_name_what_they_do_not_know_and_read_whatever_comes():
    characters = gpt.Characters("abc\n")
    assert characters.decode(characters.encode("cab")) == "cab"
    with pytest.raises(ValueError, match="'!x'"):
        characters.encode("ax!")
    for prompt, kept, remark in (
        ("", "\n", "Nothing to go on"),
        ("你好🙂<b>", "b", "Left out 5"),
        ("abc", "abc", ""),
    ):
        tokens, said = characters.read(prompt)
        assert (
            characters.decode(tokens) == kept
            and said.startswith(remark)
            and bool(said) == bool(remark)
        )


def test_an_ngram_model_mixes_its_contexts_as_witten_and_bell_do():
    model = gpt.NGramModel(torch.tensor([0, 1, 0, 2, 0, 1]), vocab=3, order=1)
    shorter = (2 + 3 * (1 / 3)) / (6 + 3)  # of six tokens of three kinds, two are 1
    assert model.probability([0], 1) == pytest.approx(
        (2 + 2 * shorter) / (3 + 2)
    )  # 0 is followed by 1, 2, 1: two kinds
    assert model.log_probabilities(torch.tensor([0])).exp().sum().item() == pytest.approx(1.0)
    assert model.losses(torch.tensor([0, 1]))[1].item() == pytest.approx(
        -math.log((2 + 2 * shorter) / 5)
    )


def test_losses_by_position_judge_every_token_once():
    model, tokens = make_model(), torch.randint(11, (100,), generator=seeded(3))
    losses = gpt.losses_by_position(model, tokens, rows=2)
    assert losses.shape == (6, 16)
    with torch.no_grad():
        want = F.cross_entropy(model(tokens[None, 32:48])[0], tokens[33:49], reduction="none")
    torch.testing.assert_close(losses[2], want)


@pytest.mark.parametrize("stride", [1, 3, 8, 16])
def test_the_sliding_window_scores_each_token_once_with_enough_before_it(stride):
    model, tokens = make_model(), torch.randint(11, (60,), generator=seeded(3))
    losses = gpt.sliding_window_loss(model, tokens, stride, rows=2)
    assert len(losses) == 16 + (60 - 17) // stride * stride
    for number in (1, 16, 17, 16 + stride, len(losses)):
        windows_before = max(0, -(-(number - 16) // stride))
        start = windows_before * stride  # of the window in which it is scored
        assert number <= 16 or number - start > 16 - stride
        with torch.no_grad():
            log_p = model(tokens[None, start:number])[0, -1].log_softmax(dim=0)
        want = -log_p[tokens[number]].item()
        assert losses[number - 1].item() == pytest.approx(want, abs=1e-4)


def test_a_stride_of_the_whole_context_is_windows_side_by_side():
    model, tokens = make_model(), torch.randint(11, (100,), generator=seeded(3))
    slid = gpt.sliding_window_loss(model, tokens, 16)
    torch.testing.assert_close(slid, gpt.losses_by_position(model, tokens).flatten())


@pytest.mark.parametrize("stride", [0, 17])
def test_a_stride_that_leaves_characters_out_is_refused(stride):
    with pytest.raises(ValueError, match="stride must be 1 to 16, the model's context"):
        gpt.sliding_window_loss(make_model(), torch.zeros(40).long(), stride)


def test_attention_weights_are_those_of_each_head():
    model, tokens = make_model(), torch.randint(11, (9,), generator=seeded(4))
    found = gpt.attention_weights(model, tokens)
    assert found.shape == (2, 2, 9, 9)
    with torch.no_grad():
        for layer in range(2):
            for head in range(2):
                stage = gpt.attention_stages(model, tokens, layer, head)["softmax"]
                torch.testing.assert_close(found[layer, head], stage)


def test_the_stages_of_attention_end_in_what_the_layer_mixes():
    model, tokens = make_model(), torch.randint(11, (9,), generator=seeded(4))
    with torch.no_grad():
        stages = gpt.attention_stages(model, tokens, layer=1, head=1)
    torch.testing.assert_close(stages["scale"], stages["score"] / math.sqrt(6))
    assert torch.isinf(stages["mask"]).equal(torch.ones(9, 9).triu(1).bool())
    torch.testing.assert_close(stages["softmax"].sum(dim=1), torch.ones(9))


def test_attention_is_a_mixture_by_hand_and_its_mask_may_start_late():
    q, k, v = torch.randn(3, 4, 6, generator=seeded())
    mixed, shares = gpt.attention(q[2:], k, v, gpt.causal_mask(2, 4))
    scores = (q[2:] @ k.T / math.sqrt(6)).exp() * torch.ones(4, 4).tril()[2:]
    want = scores / scores.sum(dim=1, keepdim=True)
    torch.testing.assert_close(shares, want)
    torch.testing.assert_close(mixed, want @ v)


def test_influence_is_how_far_each_position_moves():
    matrix = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    h = torch.randn(1, 2, 1, generator=seeded())
    kept = h.clone()
    felt = gpt.influence(lambda h: matrix @ h, h)
    torch.testing.assert_close(felt / felt[0, 0], matrix, rtol=1e-4, atol=1e-6)
    assert felt[0, 1] == 0, "to the last bit"
    assert torch.equal(h, kept)


def test_future_share_is_zero_with_the_mask_and_a_leak_without():
    torch.manual_seed(0)
    tokens = torch.randint(11, (8,), generator=seeded())
    assert gpt.future_share(gpt.GPT(11, 8, 12, 2, 1), tokens) == 0
    assert gpt.future_share(gpt.GPT(11, 8, 12, 2, 1, causal=False), tokens) > 0.01


def test_future_share_sees_a_leak_inside_the_embedding():
    class Leaky(gpt.GPT):
        def embed(self, tokens, start=0):
            return super().embed(tokens, start) + self.token(tokens.roll(-1, dims=1))

    torch.manual_seed(0)
    tokens = torch.randint(11, (8,), generator=seeded())
    assert gpt.future_share(Leaky(11, 8, 12, 2, 1), tokens) > 0.1


def test_the_loss_asks_each_position_for_the_token_after_it():
    def knowing(tokens):
        return 50.0 * F.one_hot((tokens + 1) % 11, 11).float()

    assert gpt.next_token_loss(knowing, torch.arange(20).view(2, 10) % 11) < 1e-6


def test_training_on_windows_makes_the_loss_fall_and_draws_its_own_batches():
    def train():
        torch.manual_seed(0)
        model = gpt.GPT(5, 8, 16, 2, 1)
        opt = torch.optim.AdamW(model.parameters(), lr=1e-2)
        return gpt.train_on_windows(model, opt, torch.arange(60) % 5, 40, seeded(), batch_size=4)

    losses = train()
    assert len(losses) == 40 and losses[-1] < 0.5 * losses[0]
    assert losses == train()


def test_every_window_can_be_trained_on_and_none_leaves_the_text():
    read = []

    class Spy(gpt.GPT):
        def forward(self, tokens, cache=None):
            read.append(tokens[:, 0].clone())
            return super().forward(tokens, cache)

    model = Spy(12, 8, 4, 1, 1)
    opt = torch.optim.AdamW(model.parameters(), lr=0.0)
    gpt.train_on_windows(model, opt, torch.arange(12), 20, seeded())
    assert torch.cat(read).unique().tolist() == [0, 1, 2, 3]


def test_the_truncated_loss_sees_the_given_tokens_only():
    seen = []

    def model(tokens):
        seen.append(tokens.shape)
        return 50.0 * F.one_hot((tokens + 1) % 11, 11).float()

    windows = torch.arange(33).expand(4, 33) % 11
    assert gpt.truncated_loss(model, windows, given=16) < 1e-6
    assert seen == [(4, 16)]


# ---------------------------------------------------------------- samplers at and beyond the edge

P = torch.tensor([0.15, 0.5, 0.05, 0.3])
NAN = math.nan
INF = math.inf


@pytest.mark.parametrize(
    "settings",
    [
        *({"temperature": value} for value in (-1.0, -1e-40, NAN, INF, -INF, "1", None)),
        *({"top_k": value} for value in (0, -1, 2.0, NAN, True, "2")),
        *({"top_p": value} for value in (0, 0.0, -0.5, 1.0001, 2, NAN, INF, "0.5")),
    ],
    ids=str,
)
def test_a_setting_that_means_nothing_is_refused_by_its_name(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"^{name} must be"):
        gpt.next_probabilities(P.log(), **settings)
    with pytest.raises(ValueError, match=f"^{name} must be"):
        gpt.generate(make_model(), torch.zeros(1, 3).long(), 2, seeded(), **settings)


@pytest.mark.parametrize("temperature", [0, 0.0, -0.0, 1e-320, 1e-50, 1e-45, 1e-40, 1e-30, 1e-6])
def test_a_temperature_as_good_as_zero_takes_the_likeliest(temperature):
    assert gpt.next_probabilities(P.log(), temperature).tolist() == [0, 1, 0, 0]


def test_high_temperatures_end_in_equal_shares():
    torch.testing.assert_close(gpt.next_probabilities(P.log(), 1e30), torch.full((4,), 0.25))


@pytest.mark.parametrize(
    "settings", [{"top_p": 1}, {"top_p": 1.0}, {"top_k": 50_257}, {"top_k": 10**9}]
)
def test_settings_that_keep_all_cut_nothing_of_fifty_thousand_tokens(settings):
    logits = 3 * torch.randn(2, 50_257, generator=seeded())
    free = gpt.next_probabilities(logits)
    cut = gpt.next_probabilities(logits, **settings)
    assert ((free > 0) & (cut == 0)).sum() == 0
    torch.testing.assert_close(cut, free)


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_p": 1e-9}, {"top_k": 1, "top_p": 1e-30}])
def test_the_narrowest_cut_keeps_the_likeliest(settings):
    assert gpt.next_probabilities(P.log(), **settings).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    "logits",
    [
        torch.zeros(0),
        torch.zeros(2, 0),
        torch.tensor(1.0),
        [0.0, 1.0],
        torch.tensor([0.0, NAN]),
        torch.tensor([[0.0, 1.0], [NAN, 1.0]]),
        torch.tensor([0.0, INF]),
        torch.tensor([-INF, -INF]),
    ],
    ids=str,
)
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_logits_that_give_no_probabilities_are_refused(logits, temperature):
    with pytest.raises(ValueError, match="^logits must be"):
        gpt.next_probabilities(logits, temperature)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_logits_of_any_type_and_size_give_probabilities(dtype):
    p = gpt.next_probabilities(torch.tensor([0, 3, -3, 2]).to(dtype), temperature=0.01, top_p=0.9)
    assert p.tolist() == [0, 1, 0, 0]
    huge = gpt.next_probabilities(torch.tensor([-1e38, 1e38, -INF]), temperature=1e-3)
    assert huge.tolist() == [0, 1, 0]


def test_logits_are_left_as_they_were():
    logits = P.log()
    before = logits.clone()
    gpt.next_probabilities(logits, 0.5, top_k=2, top_p=0.9)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize(
    ("context", "length"), [(1, 1), (1, 5), (2, 1), (3, 3), (8, 20), (8, 8), (8, 9)]
)
def test_any_prompt_and_context_give_the_tokens_that_were_asked_for(context, length, use_cache):
    model = stirred(gpt.GPT(9, context, 16, 2, 1))
    prompt = torch.randint(9, (2, length), generator=seeded())
    out = gpt.generate(model, prompt, 5, seeded(), use_cache)
    assert out.shape == (2, length + 5)
    assert torch.equal(out[:, :length], prompt)


@pytest.mark.parametrize(
    "prompt", [torch.zeros(1, 0).long(), torch.zeros(4).long(), [[1, 2]], "To be"], ids=str
)
def test_a_prompt_without_a_token_is_refused(prompt):
    with pytest.raises(ValueError, match="^tokens must be .* at least 1"):
        gpt.generate(make_model(), prompt, 5)


@pytest.mark.parametrize("num_new", [-1, 2.0, NAN, None, "3"])
def test_a_number_of_tokens_that_is_none_is_refused(num_new):
    with pytest.raises(ValueError, match="^num_new must be a whole number, 0 or above"):
        gpt.generate(make_model(), torch.zeros(1, 3).long(), num_new)


def test_no_new_tokens_are_the_prompt_itself():
    prompt = torch.tensor([[1, 2]])
    assert torch.equal(gpt.generate(make_model(), prompt, 0), prompt)


def test_no_tokens_at_all_are_refused_by_the_model_and_its_losses():
    model = make_model()
    for ask in (model, partial(gpt.next_token_loss, model)):
        with pytest.raises(ValueError, match="there are no tokens"):
            ask(torch.zeros(2, 0).long())
    with pytest.raises(ValueError, match="16 tokens make no window: give 17 or more"):
        gpt.losses_by_position(model, torch.zeros(16).long())
    with pytest.raises(ValueError, match="16 tokens make no window: give 17 or more"):
        gpt.sliding_window_loss(model, torch.zeros(16).long(), 4)


def test_a_width_that_cannot_be_cut_into_heads_is_refused():
    with pytest.raises(ValueError, match="width 10 cannot be cut into 4 equal heads"):
        gpt.GPT(9, 8, 10, 4, 1)


def test_an_alphabet_without_a_new_line_still_reads_an_empty_prompt():
    tokens, remark = gpt.Characters("abc").read("")
    assert tokens.tolist() == [0]
    assert remark.startswith("Nothing to go on")


# ---------------------------------------------------------------- weights of GPT-2


def library_gpt2(**settings):
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": 20, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**sizes | {"bos_token_id": 0, "eos_token_id": 0} | settings))
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model.eval()


def test_gpt2_gives_our_model_its_logits_also_from_files_with_old_buffers():
    library = library_gpt2()
    state = dict(library.state_dict())
    state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 16, 16)
    state["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    ours = gpt.GPT(20, 16, 16, 2, 2).eval()
    ours.load_state_dict(weights.from_gpt2(state, library.config, 2))
    tokens = torch.randint(20, (2, 16), generator=seeded())
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), library(tokens).logits, rtol=1e-3, atol=1e-4)


def test_a_gpt2_whose_head_is_not_tied_is_refused():
    library = library_gpt2(tie_word_embeddings=False)
    with pytest.raises(ValueError, match="lm_head.weight is not wte.weight"):
        weights.from_gpt2(library.state_dict())


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"n_head": 4}, "n_head is 4 there and 2 in our GPT"),
        ({"activation_function": "gelu"}, "activation_function is 'gelu'"),
        ({"layer_norm_epsilon": 1e-3}, "layer_norm_epsilon"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ],
)
def test_a_gpt2_that_computes_otherwise_is_refused_by_its_configuration(settings, name):
    library = library_gpt2(**settings)
    with pytest.raises(ValueError, match=name):
        weights.from_gpt2(library.state_dict(), library.config, 2)


@pytest.mark.parametrize("name", ["h.0.crossattention.q_attn.weight", "encoder.weight"])
def test_weights_that_gpt_has_no_place_for_are_named(name):
    state = dict(library_gpt2().state_dict()) | {name: torch.zeros(16, 16)}
    with pytest.raises(ValueError, match=f"no place for the weights '{name}'"):
        weights.from_gpt2(state)


# ---------------------------------------------------------------- exercises


@pytest.fixture(scope="module")
def page_space():
    """What the set-up and the exported cells of the page define, and its marks."""
    space = run_cells("03_gpt.ipynb", ("setup", "export"))
    run_marks("03_gpt.ipynb", space)
    return space


def perplexity_in_place(p):
    return p.log_().mean().neg_().exp_()


def perplexity_in_bits(p):
    return 2 ** p.log_().mean().neg_()


def block_weights(width):
    return 12 * width**2 + 13 * width


def block_weights_without_biases(width):
    return 12 * width**2


def local_attention_in_place(q, k, v, window):
    q /= math.sqrt(q.shape[-1])
    scores = q @ k.T
    near = torch.ones_like(scores).tril().triu(1 - window).bool()
    return scores.masked_fill_(~near, -INF).softmax(dim=-1) @ v


def local_attention_one_more(q, k, v, window):
    return local_attention_in_place(q, k, v, window + 1)


def nucleus_in_place(sorted_p, top_p):
    return sorted_p.sub_(sorted_p.cumsum(dim=-1)).neg_() < top_p


def nucleus_on_the_wrong_side(sorted_p, top_p):
    return sorted_p.cumsum_(dim=-1) < top_p


def causal_weights_in_place(scores):
    T = scores.shape[-1]
    return scores.masked_fill_(torch.ones(T, T).triu(1).bool(), -INF).softmax(dim=-1)


def causal_weights_scaled(scores):
    scores /= math.sqrt(scores.shape[-1])
    return causal_weights_in_place(scores)


def min_p_in_place(logits, min_p):
    logits -= logits.logsumexp(dim=-1, keepdim=True)
    p = logits.exp_()
    p *= p >= min_p * p.amax(dim=-1, keepdim=True)
    return p / p.sum(dim=-1, keepdim=True)


def min_p_sharpened(logits, min_p):
    logits *= 2
    return min_p_in_place(logits, min_p)


def centred_up_to_here(h):
    counts = torch.arange(1, h.shape[1] + 1)
    h -= h.cumsum(dim=1) / counts[:, None]
    return h


def centred_over_the_numbers(h):
    h -= h.mean(dim=2, keepdim=True)
    return h


def induction_in_loops(A, tokens):
    found = []
    for t in range(len(tokens)):
        earlier = [s for s in range(t) if tokens[s] == tokens[t]]
        if earlier:
            found.append(sum(A[t, s + 1] for s in earlier))
    return sum(found) / len(found)


def induction_one_early(A, tokens):
    """The earlier token itself, not the one that followed it."""
    earlier = (tokens[:, None] == tokens[None, :]).tril(-1)
    return (A * earlier)[earlier.any(dim=1)].sum(dim=1).mean()


ANSWERS = [
    (perplexity_in_place, perplexity_in_bits),
    (causal_weights_in_place, causal_weights_scaled),
    (local_attention_in_place, local_attention_one_more),
    ([0.0, -3.0, 3.0, -1.0], [1.0, 0.0, 1.0, -1.0]),
    (block_weights, block_weights_without_biases),
    (induction_in_loops, induction_one_early),
    (nucleus_in_place, nucleus_on_the_wrong_side),
    (min_p_in_place, min_p_sharpened),
    (centred_up_to_here, centred_over_the_numbers),
]


@pytest.mark.parametrize("number", range(1, 10))
def test_answers_that_work_in_place_are_marked_as_any_other(page_space, capsys, number):
    mark = page_space[f"mark_{number}"]
    right, wrong = ANSWERS[number - 1]
    page_space["exercise"]("Exercise", right, mark)
    assert capsys.readouterr().out == "Exercise: correct\n"
    page_space["exercise"]("Exercise", wrong, mark)
    assert capsys.readouterr().out.startswith("Exercise: not yet - ")


def test_a_softmax_over_the_queries_is_refused(page_space):
    def over_queries(scores):
        return scores.masked_fill(~gpt.causal_mask(5), -INF).softmax(dim=-2)

    with pytest.raises(CheckFailed):
        page_space["mark_2"](over_queries)


def test_a_repair_that_leaks_still_is_refused(page_space):
    with pytest.raises(CheckFailed, match="future"):
        page_space["mark_9"](page_space["centred"])


def open_answer(width, heads, blocks, lr):
    """The solution of the open exercise, and others like it: (model, optimizer) of a vocabulary."""

    def my_gpt(vocab):
        model = gpt.GPT(vocab, 64, width, heads, blocks)
        return model, torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95))

    return my_gpt


def test_the_open_exercise_refuses_a_model_that_is_too_large(page_space):
    with pytest.raises(CheckFailed, match="weights"):
        page_space["mark_10"](open_answer(96, 4, 2, 3e-3))


def test_the_open_exercise_refuses_a_model_that_sees_the_future(page_space):
    def leaky(vocab):
        model = gpt.GPT(vocab, 64, 32, 2, 1, causal=False)
        return model, torch.optim.AdamW(model.parameters(), lr=1e-2)

    with pytest.raises(CheckFailed, match="changed token"):
        page_space["mark_10"](leaky)


def test_the_open_exercise_refuses_a_leak_inside_the_embedding(page_space):
    class Leaky(gpt.GPT):
        def embed(self, tokens, start=0):
            after = torch.cat([tokens[:, 1:], tokens[:, -1:]], dim=1)
            return super().embed(tokens, start) + self.token(after)

    def leaky(vocab):
        model = Leaky(vocab, 64, 32, 2, 1)
        return model, torch.optim.AdamW(model.parameters(), lr=1e-2)

    with pytest.raises(CheckFailed, match="changed token"):
        page_space["mark_10"](leaky)


@pytest.mark.exhaustive
def test_the_open_exercise_takes_the_solution_and_refuses_the_model_to_beat(page_space):
    def with_previous(vocab):
        model = gpt_open.WithPrevious(vocab)
        return model, torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))

    page_space["mark_10"](with_previous)
    with pytest.raises(CheckFailed, match="validation loss"):
        page_space["mark_10"](open_answer(64, 2, 2, 1e-3))


# ---------------------------------------------------------------- panels

TEXT = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n" * 30
CHARACTERS = gpt.Characters(TEXT)
TOKENS = CHARACTERS.encode(TEXT)
NGRAM = gpt.NGramModel(TOKENS, len(CHARACTERS), order=3)
SMALL = stirred(gpt.GPT(len(CHARACTERS), 64, 16, 2, 2))


def make_mask_panel():
    return panels.gpt.break_the_mask(TOKENS, TOKENS, CHARACTERS, storyboard_steps=10)


MAKERS = {
    "sampler": panels.gpt.sampler,
    "two models": lambda: panels.gpt.sampler(
        {"GPT": SMALL, "n-gram model": NGRAM}, CHARACTERS, "First Citizen", "Your models"
    ),
    "lens": lambda: panels.gpt.attention_lens(SMALL, CHARACTERS, TEXT[:24]),
    "lens with named heads": lambda: panels.gpt.attention_lens(
        SMALL, CHARACTERS, TEXT[:24], {"one back": (2, 1), "wide": (1, 2)}
    ),
    "surprise": lambda: panels.gpt.surprise(SMALL, NGRAM, CHARACTERS, TEXT[:64]),
    "mask": make_mask_panel,
}
every_panel = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@every_panel
def test_every_control_draws_once_and_changes_the_picture(make):
    panel = make()
    if panel.play is not None:
        panel.play.value += 1
    use_every_control(panel)


@every_panel
def test_each_panel_owns_its_state_and_its_storyboard_is_the_same_each_time(make):
    state = torch.get_rng_state()
    assert make()._storyboard == make()._storyboard
    assert torch.equal(torch.get_rng_state(), state), "the page's random numbers were drawn from"


@every_panel
@pytest.mark.exhaustive
def test_two_panels_moved_at_once_draw_what_each_draws_alone(make):
    assert moved_together(make) == 0


def test_two_models_trained_at_once_are_what_each_is_alone():
    def train(panel, shown):
        for mask in (True, False):
            panel.set(mask=mask)
            for _ in range(2):
                panel.play.value += 1
            shown.append(panel.picture.value)

    alone = []
    train(make_mask_panel(), alone)
    results = [[], []]
    trials = [make_mask_panel(), make_mask_panel()]
    pairs = zip(trials, results, strict=True)
    threads = [threading.Thread(target=train, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [alone, alone]
    assert alone[0] != alone[1]


@every_panel
def test_a_move_is_answered_at_once(make):
    panel = make()
    for name, control in panel.controls.items():
        if not hasattr(control, "max"):
            continue
        for value in (control.min, control.max):
            assert answers_within(panel, 150, **{name: value}), f"{name}: {value}"


@pytest.mark.parametrize("words", WORDS + ["$x_1$ \\ {", "\n\n\n"])
@pytest.mark.parametrize("make", [MAKERS[name] for name in MAKERS if name != "mask"])
def test_a_readers_words_give_a_picture_and_at_most_a_remark(make, words):
    panel = make()
    key = "prompt" if "prompt" in panel.controls else "text"
    panel.set(**{key: words})
    assert panel.error is None
    assert "<img src=x" not in panel.status.value + panel.picture.value
    known = CHARACTERS if panel.title != "Next-character sampler" else None
    if known is not None:
        assert ("Left out" in panel.status.value) == bool(set(words) - set(known.number))


def test_the_sampler_says_how_many_characters_are_left():
    panel = MAKERS["two models"]()
    vocab = len(CHARACTERS)
    assert f"{vocab} of {vocab} characters left" in panel.status.value
    panel.set(top_k=3)
    assert f"3 of {vocab} characters left" in panel.status.value
    panel.set(top_k=vocab, top_p=0.05)
    assert f"1 of {vocab} characters left" in panel.status.value
    panel.set(top_p=1.0, temperature=0.0)
    assert f"1 of {vocab} characters left" in panel.status.value
    assert "with your settings 0.00" in panel.status.value


def grey_heights(panel):
    """How many pixels of each column of a sampler's picture are of the grey bars."""
    shades = picture(panel)
    bars = shades[int(0.6 * len(shades)) : int(0.86 * len(shades))]  # below the words
    return (abs(bars - 107) < 3).sum(axis=0)


def test_the_grey_bars_never_move_with_the_settings():
    panel = panels.gpt.sampler()
    before = grey_heights(panel)
    assert before.max() > 20
    for settings in ({"temperature": 0.2}, {"temperature": 2.0}, {"top_p": 0.3}, {"top_k": 1}):
        panel.set(**settings)
        assert abs(grey_heights(panel) - before).max() <= 1, settings


def test_the_sampler_writes_goes_on_and_forgets():
    panel = MAKERS["two models"]()
    sample = panel.buttons["Sample 60 (0.3 s)"]
    before = picture(panel)
    sample.click()
    once = picture(panel)
    panel.set(top_k=3)  # a setting keeps what was sampled
    panel.set(top_k=len(CHARACTERS))
    assert (picture(panel) == once).all()
    sample.click()
    assert not (picture(panel) == once).all()
    panel.buttons["Clear"].click()
    assert (picture(panel) == before).all()


def test_the_sampler_draws_what_the_settings_allow():
    panel = panels.gpt.sampler({"n-gram": NGRAM}, CHARACTERS, "First ")
    panel.set(temperature=0.0)
    panel.buttons["Sample 60 (0.3 s)"].click()
    greedy = panel.picture.value
    panel.buttons["Clear"].click()
    panel.set(temperature=3.0, top_k=1)
    panel.set(temperature=0.0, top_k=1)
    panel.buttons["Sample 60 (0.3 s)"].click()
    panel.set(top_k=len(CHARACTERS))
    assert panel.picture.value == greedy


def test_a_panel_keeps_the_model_it_was_given():
    model = stirred(gpt.GPT(len(CHARACTERS), 64, 16, 2, 2))
    panel = panels.gpt.attention_lens(model, CHARACTERS, TEXT[:24])
    before = panel.picture.value
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    panel.redraw()
    assert panel.picture.value == before


def test_the_lens_shows_the_head_that_is_asked_for():
    panel = MAKERS["lens"]()
    panel.set(text="First Citizen", layer=2, head=2, stage="softmax")
    shares = gpt.attention_stages(SMALL, CHARACTERS.encode("First Citizen"), 1, 1)["softmax"][-1]
    assert f"({100 * shares.max():.0f} %)" in panel.status.value


def test_the_lens_opens_on_the_first_head_that_is_named_and_a_button_leads_to_each():
    panel = MAKERS["lens with named heads"]()
    assert (panel.values["layer"], panel.values["head"]) == (2, 1)
    panel.buttons["wide"].click()
    assert (panel.values["layer"], panel.values["head"]) == (1, 2)
    panel.buttons["one back"].click()
    assert (panel.values["layer"], panel.values["head"]) == (2, 1)


def test_surprise_is_the_loss_of_each_character():
    panel = MAKERS["surprise"]()
    tokens = TOKENS[:64]
    with torch.no_grad():
        later = F.cross_entropy(SMALL(tokens[None, :-1])[0], tokens[1:], reduction="none")
    worst = max(later.max(), NGRAM.losses(tokens[:1])[0])
    assert f"{worst:.1f} nats" in panel.status.value
    panel.set(model="n-gram model")
    assert f"{NGRAM.losses(tokens).max():.1f} nats" in panel.status.value


def test_the_mask_panel_trains_in_chunks_and_starts_anew_with_the_switch():
    panel = make_mask_panel()
    assert "Not trained yet" in panel.status.value
    for _ in range(3):
        panel.play.value += 1
    assert "Step 15." in panel.status.value and "truncated loss" in panel.status.value
    trained = panel.status.value
    panel.buttons["Start again"].click()
    assert "Not trained yet" in panel.status.value
    for _ in range(3):
        panel.play.value += 1
    assert trained.split("Step")[1] == panel.status.value.split("Step")[1], "the same numbers again"
    panel.set(mask=False)
    assert "Not trained yet" in panel.status.value
    for _ in range(3):
        panel.play.value += 1
    assert trained.split("Step")[1] != panel.status.value.split("Step")[1]


# ---------------------------------------------------------------- pictures


Q = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
PICTURES = {
    "diagram": panels.gpt.gpt_diagram,
    "shapes": panels.gpt.gpt_shapes,
    "block": panels.gpt.block_picture,
    "gelu": lambda: panels.gpt.gelu_picture({"the": 0.73, "he": -1.0}),
    "windows": panels.gpt.sliding_windows,
    "bigrams": lambda: panels.gpt.bigram_map(torch.eye(len(CHARACTERS)), CHARACTERS.alphabet),
    "attention": lambda: panels.gpt.attention_example(Q, Q.flip(0), 10 * Q),
    "attention of named rows": lambda: panels.gpt.attention_example(Q, Q, Q, list("the")),
    "queries": lambda: panels.gpt.query_key_value(Q, Q[:2], Q[1:], Q[:2], list("the")),
    "curves": lambda: panels.gpt.training_curves(
        [4.0, 3.0, 2.0], {1: 4.0, 3: 2.5}, {"uniform": 4.2, "5-gram": 1.7}
    ),
}


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
def test_a_picture_is_drawn_whole_and_can_be_read(draw):
    check_drawing(draw)


def test_the_attention_example_writes_the_numbers_of_the_equation():
    fig = panels.gpt.attention_example(Q, Q, Q)
    mixed, shares = gpt.attention(Q, Q, Q, gpt.causal_mask(3))
    written = [text.get_text() for text in fig.axes[2].texts]
    assert written == [f"{number:.3g}" for number in shares.flatten().tolist()]
    written = [text.get_text() for text in fig.axes[4].texts]
    assert written == [f"{number:.3g}" for number in mixed.flatten().tolist()]


def test_queries_keys_and_values_are_written_as_products():
    fig = panels.gpt.query_key_value(Q, Q[:2], Q[1:], Q[:2] + 1, list("the"))
    words = [text.get_text() for text in fig.axes[0].texts]
    for matrix in (Q[:2], Q[1:], Q[:2] + 1):
        for number in (Q @ matrix).flatten().tolist():
            assert f"{number:.3g}" in words


def test_the_bigram_map_has_a_row_for_each_character_before():
    table = torch.zeros(len(CHARACTERS), len(CHARACTERS))
    h, e = CHARACTERS.encode("he")
    table[h, e] = 0.5
    shown = [c for c in "\n abcdefghijklmnopqrstuvwxyz" if c in CHARACTERS.number]
    picture = panels.gpt.bigram_map(table, CHARACTERS.alphabet).axes[0].images[0].get_array()
    assert picture[shown.index("h"), shown.index("e")] == 0.5 and picture.sum() == 0.5


# ---------------------------------------------------------------- seeded faults

page = partial(in_notebook, "03_gpt.ipynb")
panel = partial(in_panels, "gpt")


def helper(module, name, old, new, test):
    """A fault in a helper's part that serves this chapter alone, caught by a test of this file."""
    return Fault(name, f"aigc_helpers/{module}.py", old, new, test)



FAULTS = [
    page(
        "bigram: columns made to add up to 1",
        "bigram = pairs / pairs.sum(dim=1, keepdim=True)",
        "bigram = pairs / pairs.sum(dim=0, keepdim=True)",
    ),
    page(
        "n-grams: a context speaks with one vote for each token, not for each different one",
        "(counts[token] + len(counts) * p) / (counts.total() + len(counts))",
        "(counts[token] + counts.total() * p) / (counts.total() + counts.total())",
        "test_an_ngram_model_mixes_its_contexts_as_witten_and_bell_do",
    ),
    page(
        "causal factor: divided by the wrong prefix",
        "/ joint[x[:t]].sum()",
        "/ joint[x[: t + 1]].sum()",
    ),
    page("mask off by one: the next position may be attended to", ".tril()[S - T :]", ".tril(1)[S - T :]"),
    page("mask off by one: nobody may attend to itself", ".tril()[S - T :]", ".tril(-1)[S - T :]"),
    page("the mask of new positions: the first rows, not the last", ".tril()[S - T :]", ".tril()[:T]"),
    page(
        "attention: the scale is missing",
        "scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])",
        "scores = q @ k.transpose(-2, -1)",
    ),
    page(
        "attention: softmax over the queries",
        "weights = scores.softmax(dim=-1)   ",
        "weights = scores.softmax(dim=-2)   ",
    ),
    page(
        "attention: the mask turned over",
        "scores = scores.masked_fill(~mask, float",
        "scores = scores.masked_fill(mask, float",
    ),
    page(
        "heads: keys and values swapped",
        "q, k, v = self.split(h)",
        "q, v, k = self.split(h)",
    ),
    page("the layer forgets that it is causal", "is_causal=self.causal)", "is_causal=False)"),
    page(
        "block: the stream is not passed on",
        "h = h + self.attention(self.norm1(h))",
        "h = self.attention(self.norm1(h))",
    ),
    page("block: the MLP reads without its norm", "self.mlp(self.norm2(h))", "self.mlp(h)"),
    page(
        "block: the exact GELU",
        'self.down(F.gelu(self.up(h), approximate="tanh"))',
        "self.down(F.gelu(self.up(h)))",
    ),
    page(
        "positions forgotten",
        "return self.token(tokens) + self.position.weight[start:end]",
        "return self.token(tokens) + 0 * self.position.weight[start:end]",
    ),
    page(
        "the last norm forgotten",
        "self.norm(h) @ self.token.weight.T",
        "h @ self.token.weight.T",
    ),
    page("targets not shifted", "tokens[:, 1:].flatten())", "tokens[:, :-1].flatten())"),
    page("temperature multiplies", "(logits / temperature)", "(logits * temperature)"),
    page("top-k keeps one more", "p[..., top_k:] = 0", "p[..., top_k + 1 :] = 0"),
    page(
        "top-p keeps the wrong side",
        "(p.cumsum(dim=-1) - p < top_p)",
        "(p.cumsum(dim=-1) - p >= top_p)",
    ),
    page(
        "top-p drops the token that crosses the line",
        "(p.cumsum(dim=-1) - p < top_p)",
        "(p.cumsum(dim=-1) < top_p)",
    ),
    page("sampled in sorted order", "torch.zeros_like(p).scatter(-1, order, p)", "p"),
    page(
        "cache: position off by one",
        "start=len(cache))",
        "start=len(cache) + (len(cache) > 0))",
        "test_in_pieces_with_a_cache_the_logits_are_those_of_the_whole",
    ),
    page(
        "cache: the new position in front",
        "torch.cat([old_k, k], dim=2)",
        "torch.cat([k, old_k], dim=2)",
        "test_in_pieces_with_a_cache_the_logits_are_those_of_the_whole",
    ),
    page(
        "the next token drawn from the first position",
        "return model(tokens[:, -model.context :])[:, -1]",
        "return model(tokens[:, -model.context :])[:, 0]",
        "test_the_next_token_is_drawn_from_the_last_position",
    ),
    page(
        "losses judged one position early",
        "targets = batch[:, 1:].flatten()",
        "targets = batch[:, :-1].flatten()",
        "test_losses_by_position_judge_every_token_once",
    ),
    page(
        "the lens forgets the scale",
        "scale = score / math.sqrt(q.shape[-1])",
        "scale = score / q.shape[-1]",
        "test_the_stages_of_attention_end_in_what_the_layer_mixes",
    ),
    helper(
        "weights",
        "weights of GPT-2 not transposed",
        "weight.T if transposed else weight",
        "weight if transposed else weight",
        "test_gpt2_gives_our_model_its_logits_also_from_files_with_old_buffers",
    ),
    page("future_share looks at the past", "(moved.triu(1).sum()", "(moved.tril(-1).sum()"),
    page(
        "influence: rows and columns swapped",
        "columns.append((function(changed)[0] - before).norm(dim=-1))       # (T,)\n    return torch.stack(columns, dim=1)",
        "columns.append((function(changed)[0] - before).norm(dim=-1))       # (T,)\n    return torch.stack(columns, dim=0)",
    ),
    helper(
        "arguments",
        "sampler: top-k 0 is let through",
        "whole and top_k >= 1",
        "whole and top_k >= 0",
        "test_a_setting_that_means_nothing_is_refused_by_its_name",
    ),
    helper(
        "arguments",
        "sampler: a temperature that is not a number is let through",
        "not 0 <= temperature < math.inf",
        "temperature < 0",
        "test_a_setting_that_means_nothing_is_refused_by_its_name",
    ),
    page(
        "sampler: top-p 1 cuts the tail",
        "if top_p is not None and top_p < 1:",
        "if top_p is not None:",
        "test_settings_that_keep_all_cut_nothing_of_fifty_thousand_tokens",
    ),
    page(
        "sampler: only the exact 0 is greedy",
        "if temperature < torch.finfo(torch.float32).tiny:",
        "if temperature == 0:",
        "test_a_temperature_as_good_as_zero_takes_the_likeliest",
    ),
    page(
        "generate: a context of one has no half",
        "max(1, model.context // 2)",
        "model.context // 2",
        "test_any_prompt_and_context_give_the_tokens_that_were_asked_for",
    ),
    helper(
        "weights",
        "weights of GPT-2: an untied head is dropped",
        "if head is not None and not torch.equal",
        "if head is None and not torch.equal",
        "test_a_gpt2_whose_head_is_not_tied_is_refused",
    ),
    helper(
        "weights",
        "weights of GPT-2: heads are not compared",
        '"n_head": num_heads, ',
        "",
        "test_a_gpt2_that_computes_otherwise_is_refused_by_its_configuration",
    ),
    page(
        "the truncated loss sees the future",
        "logits = model(windows[:, :given])[:, -1]",
        "logits = model(windows)[:, given - 1]",
        "test_the_truncated_loss_sees_the_given_tokens_only",
    ),
    page(
        "generate: a finished row goes on",
        "token[finished] = end[-1].item()",
        "token[finished] = token[finished]",
        "test_a_row_that_has_written_its_end_is_filled_and_all_stop_with_the_last_one",
    ),
    page(
        "generate: an end in the prompt counts",
        "if end is not None and count >= len(end):",
        "if end is not None:",
        "test_an_end_that_is_only_in_the_prompt_ends_nothing",
    ),
    page(
        "sliding window: the first predictions are scored, not the last",
        "parts.append(losses[:, -stride:].flatten())",
        "parts.append(losses[:, :stride].flatten())",
        "test_the_sliding_window_scores_each_token_once_with_enough_before_it",
    ),
    page(
        "attention_weights: every layer reads the embeddings",
        "found.append(attention(q, k, v, mask)[1][0])\n        h = block(h)",
        "found.append(attention(q, k, v, mask)[1][0])",
        "test_attention_weights_are_those_of_each_head",
    ),
    page(
        "heads are mixed up when they are laid side by side",
        "self.out(mixed.transpose(1, 2).flatten(2))",
        "self.out(mixed.reshape(mixed.shape[0], mixed.shape[2], -1))",
    ),
    page(
        "eq. (2): the loss of the pairs loses its minus",
        "return (-(counts * table",
        "return ((counts * table",
    ),
    page(
        "mark 5 forgets the biases",
        "found = sum(weight.numel() for weight in Block(width, 2).parameters())",
        "found = sum(w.numel() for w in Block(width, 2).parameters() if w.ndim == 2)",
        "exercises",
    ),
    page(
        "exercise 9: the leak is mended",
        "return h - h.mean(dim=1, keepdim=True)",
        "return h - h.mean(dim=2, keepdim=True)",
        "exercises",
    ),
    panel(
        "lens panel: it opens on the last head that is named",
        "first = next(iter(named.values()), ",
        "first = next(reversed(named.values()), ",
        "test_the_lens_opens_on_the_first_head_that_is_named_and_a_button_leads_to_each",
    ),
    panel(
        "attention example: the mask comes too late",
        'scores.masked_fill(~mask, float("-inf")),\n        "softmax: weights A": weights',
        'scores.masked_fill(~mask, float("-inf")),\n        "softmax: weights A": scores.softmax(1)',
        "test_the_attention_example_writes_the_numbers_of_the_equation",
    ),
    panel(
        "sampler panel: the grey bars are drawn anew to the height of the blue ones",
        "top = min(1.0, HEADROOM * before.max().item())",
        "top = after.max().item()",
        "test_the_grey_bars_never_move_with_the_settings",
    ),
    panel(
        "queries: the matrix is multiplied from the wrong side",
        "h @ matrix, plotting.BLUE",
        "h @ matrix.T, plotting.BLUE",
        "test_queries_keys_and_values_are_written_as_products",
    ),
    page(
        "eq. (8): every stack is built without the plus",
        "h = h + part(read) if self.adds else part(read)",
        "h = part(read)",
    ),
    page(
        "eq. (8): the neuron of the example reads another number",
        "[0.0, 0.0, 3.0, 0.0, 3.0, 0.0]",
        "[0.0, 0.0, 3.0, 0.0, 0.0, 3.0]",
    ),
    page(
        "eq. (9): the head of the example is not tied",
        "W_E = torch.eye(4, 6)",
        "W_E = torch.eye(4, 6).roll(1, dims=0)",
    ),
    page(
        "mark 4 takes a neuron that fires for the as well",
        "the = torch.tensor([1.0, 0.576, 0.284, 1.0])",
        "the = torch.tensor([1.0, 0.0, 0.67, 1.0])",
        "exercises",
    ),
    page(
        "mark 6 looks at the earlier token itself",
        "perfect[4, 2] = 1",
        "perfect[4, 1] = 1",
        "exercises",
    ),
    page(
        "mark 3 gives the last query three keys",
        "attention(q[5:], k[4:], v[4:])",
        "attention(q[5:], k[3:], v[3:])",
        "exercises",
    ),
    panel(
        "sampler panel: top-p is not handed on",
        '"top_k": top_k, "top_p": top_p}',
        '"top_k": top_k}',
        "test_the_sampler_says_how_many_characters_are_left",
    ),
    panel(
        "sampler panel: the text is read anew at every move",
        "if (name, prompt) == (self.name, self.prompt):",
        "if False:",
        "test_the_sampler_writes_goes_on_and_forgets",
    ),
    panel(
        "lens panel: layers are counted from 0",
        "attention_stages(model, shown, layer - 1, head - 1)",
        "attention_stages(model, shown, layer - 2, head - 1)",
        "test_the_lens_shows_the_head_that_is_asked_for",
    ),
    panel(
        "surprise panel: nats are shown as bits",
        "return torch.cat([first, later])",
        "return torch.cat([first, later]) / math.log(2)",
        "test_surprise_is_the_loss_of_each_character",
    ),
    panel(
        "mask panel: the switch changes nothing",
        "block.attention.causal = mask",
        "block.attention.causal = True",
        "test_the_mask_panel_trains_in_chunks_and_starts_anew_with_the_switch",
    ),
    panel(
        "mask panel: two panels train one model",
        "self.model = copy.deepcopy(self.initial)",
        "self.model = self.initial",
        "test_the_mask_panel_trains_in_chunks_and_starts_anew_with_the_switch",
    ),
    page(
        "mark 7 accepts the cut on the wrong side",
        "(0.6, [1, 1, 0, 0])",
        "(0.6, [1, 0, 0, 0])",
        "exercises",
    ),
    page(
        "mark 2 forgets the mask",
        'want = scores.masked_fill(~mask, float("-inf"))',
        "want = scores",
        "exercises",
    ),
]
