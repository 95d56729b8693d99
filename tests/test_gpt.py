"""What the pages of 03_gpt and 03b_gpt_beyond do not reach: caches, limits, optimisers, and foreign weights from a folder."""

import math

import pytest
import torch
import torch.nn.functional as F
from notebook_cells import run_cells

from aigc_helpers.checks import CheckFailed
from aigc_helpers.models import gpt, gpt_beyond


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def stirred(model):
    """The model in evaluation mode, with no weight left at zero: a test should have something to see."""
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3, generator=seeded())
    return model.eval()


MODELS = {"03": lambda: stirred(gpt.GPT(11, 16, 12, 2, 2)), "03b": lambda: stirred(gpt_beyond.ModernGPT(11, 16, 12, 2, 2, rows=50)),
          "03b without chunks": lambda: stirred(gpt_beyond.ModernGPT(11, 16, 12, 2, 2, grams=1)),
          "03b with GPT-2's parts": lambda: stirred(gpt_beyond.ModernGPT(11, 16, 12, 2, 2, grams=1, rms=False, rotary=False,
                                                                          qk_norm=False, relu2=False))}  # fmt: skip
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


@every_model
@pytest.mark.parametrize("cuts", [(5, 6), (1, 2), (2, 13), (15, 16)])
@torch.no_grad()
def test_in_pieces_with_a_cache_the_logits_are_those_of_the_whole(make, cuts):
    model, tokens, cache = make(), torch.randint(11, (3, 16), generator=seeded(1)), gpt.Cache()
    pieces = [model(part, cache) for part in torch.tensor_split(tokens, cuts, dim=1) if part.shape[1]]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), rtol=1e-3, atol=1e-4)
    assert len(cache) == 16


@every_model
@torch.no_grad()
def test_no_logit_feels_a_later_token(make):
    model, tokens = make(), torch.randint(11, (1, 16), generator=seeded(2))
    whole = model(tokens)
    for place in (1, 7, 15):
        changed = tokens.clone()
        changed[0, place] = (changed[0, place] + 1) % 11
        moved = (model(changed) - whole)[0].abs().amax(dim=1)
        assert (moved[:place] == 0).all() and moved[place] > 1e-4


@every_model
def test_the_same_text_is_written_with_and_without_the_cache_and_beyond_the_context(make):
    model, start = make(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    slow, fast = (gpt.generate(model, start, 13, seeded(), use_cache) for use_cache in (False, True))
    assert torch.equal(slow, fast)
    long = gpt.generate(model, start, 40, seeded(), temperature=0.7, top_k=5)
    assert long.shape == (2, 43) and torch.equal(long[:, :3], start)


def test_beyond_the_context_the_model_refuses_with_one_clear_message():
    model = gpt.GPT(11, 8, 12, 2, 1)
    with pytest.raises(ValueError, match="9 tokens are more than the context of 8 holds"):
        model(torch.zeros(1, 9, dtype=torch.long))


def test_the_next_token_is_drawn_from_the_last_place():
    class Clock(torch.nn.Module):
        """Sure that the token after n is n + 1."""

        context = 8

        def forward(self, tokens, cache=None):
            return 50.0 * F.one_hot((tokens + 1) % 11, 11).float()

    assert gpt.generate(Clock(), torch.tensor([[3]]), 6, use_cache=False)[0].tolist() == [3, 4, 5, 6, 7, 8, 9]


def test_characters_name_what_they_do_not_know_and_read_whatever_comes():
    characters = gpt.Characters("abc\n")
    assert characters.decode(characters.encode("cab")) == "cab"
    with pytest.raises(ValueError, match="'!x'"):
        characters.encode("ax!")
    for prompt, kept, remark in (("", "\n", "Nothing to go on"), ("你好🙂<b>", "b", "Left out 5"), ("abc", "abc", "")):
        tokens, said = characters.read(prompt)
        assert characters.decode(tokens) == kept and said.startswith(remark) and bool(said) == bool(remark)


def test_a_counted_model_mixes_its_contexts_as_witten_and_bell_do():
    counted = gpt.CountedModel(torch.tensor([0, 1, 0, 2, 0, 1]), vocab=3, order=1)
    shorter = (2 + 3 * (1 / 3)) / (6 + 3)  # of six tokens of three kinds, two are 1
    assert counted.probability([0], 1) == pytest.approx((2 + 2 * shorter) / (3 + 2))  # 0 is followed by 1, 2, 1: two kinds
    assert counted.log_probabilities(torch.tensor([0])).exp().sum().item() == pytest.approx(1.0)
    assert counted.losses(torch.tensor([0, 1]))[1].item() == pytest.approx(-math.log((2 + 2 * shorter) / 5))


def test_losses_by_place_judge_every_token_once():
    model, tokens = MODELS["03"](), torch.randint(11, (100,), generator=seeded(3))
    losses = gpt.losses_by_place(model, tokens, rows=2)
    assert losses.shape == (6, 16)
    with torch.no_grad():
        want = F.cross_entropy(model(tokens[None, 32:48])[0], tokens[33:49], reduction="none")
    torch.testing.assert_close(losses[2], want)


def test_the_stages_of_attention_end_in_what_the_layer_mixes():
    model, tokens = MODELS["03"](), torch.randint(11, (9,), generator=seeded(4))
    with torch.no_grad():
        stages = gpt.look_inside(model, tokens, layer=1, head=1)
    torch.testing.assert_close(stages["scale"], stages["score"] / math.sqrt(6))
    assert torch.isinf(stages["mask"]).equal(torch.ones(9, 9).triu(1).bool())
    torch.testing.assert_close(stages["softmax"].sum(dim=1), torch.ones(9))


# ---------------------------------------------------------------- 03b


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
        layers = [layer for block in model.blocks for layer in (block.qkv, block.out, block.up, block.down)]
        assert by_muon == {id(layer.weight) for layer in layers}, "no embedding, no table, no norm, no exit"
    before = [weight.clone() for weight in model.parameters()]
    gpt_beyond.set_rates(opts, 5, 100)
    gpt_beyond.train_step(model, opts, torch.randint(11, (4, 17), generator=seeded()), torch.device("cpu"))
    assert all(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_the_rates_rise_stay_and_fall_to_nearly_zero():
    opts = gpt_beyond.optimizers(gpt_beyond.ModernGPT(11, 16, 12, 2, 1, grams=1))
    seen = []
    for step in range(1, 101):
        gpt_beyond.set_rates(opts, step, 100)
        seen.append([opt.param_groups[0]["lr"] for opt in opts])
    assert seen[0] == pytest.approx([5e-3 / 20, 0.02 / 20]) and seen[19] == seen[39] == pytest.approx([5e-3, 0.02])
    assert seen[99] == pytest.approx([5e-3 / 60, 0.02 / 60]) and seen[69] == pytest.approx([5e-3 * 31 / 60, 0.02 * 31 / 60])


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
        patch.setattr(F, "binary_cross_entropy_with_logits", lambda logits, labels: seen.update(labels=labels) or loss)
        gpt_beyond.sentence_goal(Spy(), x, seeded())
    assert torch.equal(seen["labels"][:, 0].bool(), fits)


def test_the_masked_goal_asks_only_for_what_is_hidden():
    class Copier:
        hidden = 5

        def gpt(self, tokens):
            return 50.0 * F.one_hot(tokens, 6).float()     # sure of what it sees; where a token is hidden, sure of "hidden"

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
        logits[0, 1, 3] = 50.0                                # sure, and right, after the second token; elsewhere: no idea
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
            tokens, k = (tokens[:k] + [256 + rank[pair]] + tokens[k + 2 :], 0) if pair in rank else (tokens, k + 1)
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


def run_marks(name, space):
    """Run the mark cells of a notebook in `space`, after its set-up, with blank answers."""
    from aigc_helpers import notebooks

    book = notebooks.read(notebooks.ROOT / "notebooks" / name)
    for answer, mark, _ in notebooks.exercises(book):
        exec(answer.source, space)
        exec(mark.source, space)


def test_gpt2_is_loaded_from_a_folder_and_gives_our_model_its_logits(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=16, n_embd=12, n_layer=2, n_head=2, bos_token_id=0,
                               eos_token_id=0)).save_pretrained(tmp_path)  # fmt: skip
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0, "b": 1}, []))).save_pretrained(tmp_path)
    (vocabulary, library), message = gpt_beyond.load_gpt2(str(tmp_path))
    assert message == "" and vocabulary.encode("ab") == [0, 1]
    ours = gpt.GPT(20, 16, 12, 2, 2).eval()
    ours.load_state_dict(gpt.from_gpt2(library.state_dict()))
    tokens = torch.randint(20, (2, 16), generator=seeded())
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), library.eval()(tokens).logits, rtol=1e-3, atol=1e-4)


def test_without_the_weights_there_is_one_clear_message(tmp_path):
    found, message = gpt_beyond.load_gpt2(str(tmp_path))
    assert found is None and "FETCH_GPT2 = True" in message and "\n" not in message
