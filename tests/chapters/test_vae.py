"""02_vae: its exported functions beyond the page's own checks, its panels, exercises, seeded faults."""

import math
import re
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from aigc_helpers import panels
from aigc_helpers.data import load_digits, to_signed, to_unit
from aigc_helpers.models import vae
from tests.marking import assert_marked
from tests.panel_checks import (
    answers_within,
    assert_readable,
    cropped_texts,
    faint_texts,
    moved_together,
    other_value,
    picture,
    use_every_control,
)
from tests.seeded_faults import in_notebook, in_panels
from tests.small_vaes import draw_binary, make_vae, seeded

NAME = "02_vae.ipynb"

X = draw_binary(6)


# ---------------------------------------------------------------- the two terms


def test_the_kl_is_that_of_torch_distributions():
    mu, logvar = torch.randn(2, 50, generator=seeded()).double()
    q = torch.distributions.Normal(mu, (0.5 * logvar).exp())
    prior = torch.distributions.Normal(torch.zeros(50).double(), 1.0)
    want = torch.distributions.kl_divergence(q, prior)
    torch.testing.assert_close(vae.gaussian_kl(mu, logvar), want)
    assert vae.gaussian_kl(torch.zeros(3), torch.zeros(3)).tolist() == [0, 0, 0]


def test_a_sample_has_the_mean_and_the_width_that_it_is_told():
    mu = torch.full((100_000, 1), 1.5)
    logvar = torch.full_like(mu, math.log(4.0))
    z = vae.reparameterise(mu, logvar, seeded())
    assert z.mean().item() == pytest.approx(1.5, abs=0.03)
    assert z.std().item() == pytest.approx(2.0, rel=0.02)
    assert torch.equal(z, vae.reparameterise(mu, logvar, seeded())), "a generator repeats it"


def test_the_likelihood_is_summed_and_may_have_samples_in_front():
    logits = torch.randn(5, 6, 784, generator=seeded())
    want = -F.binary_cross_entropy_with_logits(logits, X.expand(5, 6, 784), reduction="none")
    torch.testing.assert_close(vae.bernoulli_log_likelihood(logits, X), want.sum(dim=-1))
    one = vae.bernoulli_log_likelihood(logits[0, 0], X)  # and one model for all pictures
    assert one.shape == (6,)


def test_the_likelihood_of_a_diverged_model_is_nan_and_not_a_number():
    logits = torch.full((6, 784), math.nan)
    assert vae.bernoulli_log_likelihood(logits, X).isnan().all()


def test_the_distortion_reaches_the_encoder_through_z():
    model = make_vae()
    for sample in (True, False):
        distortion, _ = vae.elbo_terms(model, X, sample)
        gradient = torch.autograd.grad(distortion.sum(), model.encoder[-1].bias)[0]
        assert (gradient[:3] != 0).all(), "mu always"
        assert bool((gradient[3:] != 0).any()) is sample, "the width if sampled"


def test_a_picture_is_decoded_from_its_own_code():
    model = make_vae()
    with torch.no_grad():
        distortion, rate = vae.elbo_terms(model, X, sample=False)
        mu, logvar = model.encode(X)
        want = -vae.bernoulli_log_likelihood(model.decode(mu), X)
    torch.testing.assert_close(distortion, want)
    torch.testing.assert_close(rate, vae.gaussian_kl(mu, logvar))


@pytest.mark.parametrize(("x", "w", "s"), [(3.0, 2.0, 1.0), (-1.0, 0.5, 2.0)])
def test_the_linear_model_is_known_by_the_grid(x, w, s):
    z = torch.linspace(-12, 12, 8001).double()
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z)
    joint = prior + torch.distributions.Normal(w * z, s).log_prob(torch.tensor(x).double())
    evidence = torch.trapezoid(joint.exp(), z).log().item()
    assert vae.linear_evidence(x, w, s) == pytest.approx(evidence, rel=1e-6)
    mean, variance = vae.linear_posterior(x, w, s)
    weight = torch.softmax(joint, dim=0)
    assert (weight * z).sum().item() == pytest.approx(mean, rel=1e-5)
    assert (weight * (z - mean) ** 2).sum().item() == pytest.approx(variance, rel=1e-4)


def test_the_bound_of_the_encoder_panel_is_the_elbo():
    z = torch.linspace(-14, 14, 20_001).double()
    for x, mu, sigma in ((3.0, 0.3, 0.8), (-2.0, 1.0, 0.3)):
        q = torch.distributions.Normal(mu, sigma).log_prob(z)
        log_p = torch.distributions.Normal(2 * z, 1.0).log_prob(torch.tensor(x).double())
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(z)
        want = torch.trapezoid(q.exp() * (log_p + prior - q), z).item()
        assert panels.vae.linear_bound(x, mu, sigma) == pytest.approx(want, rel=1e-4)
        mean, variance = vae.linear_posterior(x)
        best = panels.vae.linear_bound(x, mean, math.sqrt(variance))
        assert best == pytest.approx(vae.linear_evidence(x), rel=1e-9)


def test_the_mean_elbo_is_over_all_pictures_and_repeatable():
    model = make_vae()
    x = draw_binary(1203)
    got = vae.mean_elbo(model, x)
    assert got == vae.mean_elbo(model, x)
    random = seeded()
    with torch.no_grad():
        parts = [vae.elbo_terms(model, part, generator=random) for part in (x[:500], x[500:1000], x[1000:])]
    losses = torch.cat([distortion + rate.sum(dim=1) for distortion, rate in parts])
    assert len(losses) == 1203 and got == pytest.approx(-losses.mean().item(), rel=1e-5)


# ---------------------------------------------------------------- networks


def test_a_residual_block_whose_layer_returns_zero_passes_its_input_on():
    block = vae.ResidualBlock(8)
    torch.nn.init.zeros_(block.linear.weight)
    torch.nn.init.zeros_(block.linear.bias)
    h = torch.randn(3, 8)
    assert torch.equal(block(h), h)


def test_an_mlp_has_as_many_blocks_as_it_is_told():
    for blocks in (0, 3):
        net = vae.mlp(5, 4, blocks, 2)
        assert sum(isinstance(part, vae.ResidualBlock) for part in net) == blocks
        assert net(torch.zeros(7, 5)).shape == (7, 2)


def test_a_vae_gives_float32_also_under_autocast():
    model = make_vae()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mu, logvar = model.encode(X)
        logits = model.decode(torch.zeros(2, 5, 3))
    assert mu.dtype == logvar.dtype == logits.dtype == torch.float32
    assert mu.shape == logvar.shape == (6, 3) and logits.shape == (2, 5, 784)


@pytest.mark.parametrize("make", [vae.VAE, vae.ConvVAE, vae.PlainVAE, vae.SkipVAE])
def test_every_vae_encodes_pictures_and_decodes_codes_of_any_shape(make):
    torch.manual_seed(0)
    model = make(4)
    mu, logvar = model.encode(X)
    assert mu.shape == logvar.shape == (6, 4)
    z = torch.randn(2, 5, 4, generator=seeded())
    logits = model.decode(z)
    assert logits.shape == (2, 5, 784)
    torch.testing.assert_close(logits[1, 3], model(z[1, 3][None])[0], rtol=1e-4, atol=1e-5)


def test_a_new_map_block_passes_its_input_on_and_learns_not_to():
    block = vae.MapBlock(8)
    h = torch.randn(2, 8, 7, 7)
    assert torch.equal(block(h), h)
    block(h).square().sum().backward()
    assert block.second.weight.grad.abs().sum() > 0


def test_the_decoders_of_the_clinic_differ_in_the_skips_alone():
    torch.manual_seed(0)
    plain = vae.PlainVAE()
    torch.manual_seed(0)
    skip = vae.SkipVAE()
    for a, b in zip(plain.parameters(), skip.parameters(), strict=True):
        assert torch.equal(a, b)
    h = torch.randn(3, 256, generator=seeded())
    layers = [part for part in plain.decoder if isinstance(part, vae.TanhLayer)]
    assert len(layers) == vae.DEPTH
    other = [part for part in skip.decoder if isinstance(part, vae.TanhLayer)]
    torch.testing.assert_close(other[0](h), h + layers[0](h))
    torch.testing.assert_close(layers[0](h), torch.tanh(layers[0].linear(h)))


def test_models_of_one_seed_see_the_same_batches(monkeypatch):
    images = (255 * draw_binary(50)).reshape(50, 1, 28, 28).to(torch.uint8) // 2
    terms = vae.elbo_terms

    def batches(**settings):
        seen = []

        def record(model, x, *others):
            seen.append(x)
            return terms(model, x, *others)

        monkeypatch.setattr(vae, "elbo_terms", record)
        vae.train_small(images, 4, **settings)
        return torch.stack(seen)

    drawn = batches()
    mean = batches(sample=False, z_dim=3)
    other = batches(seed=1)
    assert torch.equal(drawn, mean) and not torch.equal(drawn, other)
    assert not torch.equal(drawn[0], drawn[1])


def test_the_parts_are_taken_away_one_at_a_time(monkeypatch):
    found = {}

    def record(images, num_steps, **settings):
        found[len(found)] = settings
        return make_vae(8), None

    monkeypatch.setattr(vae, "train_small", record)
    names = [name for name, _ in vae.take_away(IMAGES, 5, seed=3)]
    assert names == ["VAE", "no rate", "no noise", "autoencoder"]
    assert [(row["sample"], row["beta"]) for row in found.values()] == [
        (True, 1.0), (True, 0.0), (False, 1.0), (False, 0.0)
    ]
    assert all(row["seed"] == 3 and row["z_dim"] == 8 for row in found.values())


def test_the_habits_of_a_model_are_measured_over_pictures():
    model = make_vae()
    x = draw_binary(40)
    got = vae.habits_of(model, x)
    with torch.no_grad():
        mu, logvar = model.encode(x)
        D = -vae.bernoulli_log_likelihood(model.decode(mu), x)
        drawn, rate = vae.elbo_terms(model, x, generator=seeded())
    assert got["spread of the means"] == pytest.approx(mu.std(dim=0).mean().item())
    assert got["width of q"] == pytest.approx((logvar / 2).exp().mean().item())
    assert got["R"] == pytest.approx(rate.sum(dim=1).mean().item())
    assert got["D at the means"] == pytest.approx(D.mean().item())
    assert got["D + R, z drawn"] == pytest.approx((drawn + rate.sum(dim=1)).mean().item())


def test_train_small_is_repeatable_and_warm_up_begins_with_a_free_rate():
    images = (255 * X).reshape(6, 1, 28, 28).to(torch.uint8)
    settings = ({}, {}, {"warmup": 10}, {"warmup": 10**9})
    plain, again, warm, never = [
        vae.train_small(images, 12, 4.0, **chosen)[1] for chosen in settings
    ]
    assert plain.shape == (12, 2) and torch.equal(plain, again)
    assert warm[-1].sum() > plain[-1].sum()
    without = vae.train_small(images, 12, 0.0)[1]
    torch.testing.assert_close(never, without, rtol=1e-3, atol=1e-5)


def test_the_clinic_gives_the_failing_model_a_control_and_two_remedies():
    images = (255 * X).reshape(6, 1, 28, 28).to(torch.uint8)
    found = {name: (model, rates) for name, model, rates in vae.clinic(images, 4)}
    assert list(found) == ["plain", "plain, warm-up", "plain, beta = 0", "skip connections"]
    assert all(rates.shape == (4, 20) for _, rates in found.values())
    assert [model.skip for model, _ in found.values()] == [False, False, False, True]
    free = found["plain, beta = 0"][1][-1].sum()
    assert free > found["plain"][1][-1].sum(), "the control pays nothing for its rate"


def test_the_open_exercise_trains_the_model_that_it_is_given():
    model = make_vae()
    before = model.encoder[0].weight.clone()
    images = (255 * draw_binary(130)).reshape(130, 1, 28, 28).to(torch.uint8)
    out = vae.train_open(model, torch.optim.Adam(model.parameters(), 1e-2), images, 3)
    assert out is model and not model.training and not torch.equal(before, model.encoder[0].weight)


# ---------------------------------------------------------------- pictures of every type, bad input


def test_pictures_of_every_type_are_binarised_to_the_same_share_of_white():
    images = load_digits("test", n=100, verbose=False).images
    want = to_unit(images).mean().item()
    kinds = {
        "uint8": images,
        "int64": images.long(),
        "floats in [0, 1]": to_unit(images),
        "float64": to_unit(images).double(),
        "bfloat16": to_unit(images).bfloat16(),
        "rows": images.flatten(1),
        "NumPy": images.numpy(),
    }
    for name, pixels in kinds.items():
        x = vae.binarise(pixels, seeded())
        assert x.shape == (100, 784) and x.dtype == torch.float32, name
        assert x.mean().item() == pytest.approx(want, abs=0.004), name
    sharp = images > 127
    assert torch.equal(vae.binarise(sharp), sharp.flatten(1).float()), "black and white stays"


def images_of(value, *shape):
    return torch.full(shape or (2, 784), value)


BAD = {
    "binarise: signed": (
        lambda: vae.binarise(to_signed(images_of(0).byte())),
        r"binarise: .*\[0, 1\]",
    ),
    "binarise: 0..255 as floats": (lambda: vae.binarise(images_of(200.0)), r"binarise: .*\[0, 1\]"),
    "binarise: NaN": (lambda: vae.binarise(images_of(math.nan)), "binarise: .*NaN"),
    "binarise: none": (lambda: vae.binarise(torch.zeros(0, 784)), "binarise: "),
    "binarise: one row": (lambda: vae.binarise(torch.zeros(784)), r"binarise: needs a batch"),
    "binarise: a list": (lambda: vae.binarise([[0, 255]]), "binarise: "),
    "sample: whole mu": (
        lambda: vae.reparameterise(torch.zeros(2, 3).long(), torch.zeros(2, 3)),
        "reparameterise: mu",
    ),
    "sample: shapes": (
        lambda: vae.reparameterise(torch.zeros(2, 3), torch.zeros(2, 1)),
        "reparameterise: mu",
    ),
    "likelihood: grey": (
        lambda: vae.bernoulli_log_likelihood(torch.zeros(2, 784), images_of(0.5)),
        r"x must hold only 0 and 1, but 1568 of 1568 values are neither: use binarise",
    ),
    "likelihood: NaN": (
        lambda: vae.bernoulli_log_likelihood(torch.zeros(2, 784), images_of(math.nan)),
        "x must hold only 0 and 1",
    ),
    "likelihood: pixels": (
        lambda: vae.bernoulli_log_likelihood(torch.zeros(2, 784), images_of(255).byte()),
        "x must hold only 0 and 1",
    ),
    "likelihood: none": (
        lambda: vae.bernoulli_log_likelihood(torch.zeros(0, 784), torch.zeros(0, 784)),
        "must be a tensor of pictures",
    ),
    "likelihood: one column": (
        lambda: vae.bernoulli_log_likelihood(torch.zeros(2, 784), torch.zeros(2, 1)),
        r"logits must be a tensor \(..., 1\) of floats, .* torch.float32 of shape \(2, 784\)",
    ),
    "likelihood: other number": (
        lambda: vae.bernoulli_log_likelihood(torch.zeros(3, 784), torch.zeros(2, 784)),
        r"must agree in shape, got \(3, 784\) and \(2, 784\)",
    ),
    "likelihood: whole logits": (
        lambda: vae.bernoulli_log_likelihood(torch.zeros(2, 4).long(), torch.zeros(2, 4)),
        "logits must be a tensor",
    ),
    "encode: pixels": (
        lambda: make_vae().encode(images_of(255).byte()),
        r"VAE.encode: x must be a tensor \(..., 784\) of floats, .* torch.uint8",
    ),
    "encode: not flat": (lambda: make_vae().encode(torch.zeros(2, 1, 28, 28)), "VAE.encode: x"),
    "decode: width": (lambda: make_vae().decode(torch.zeros(2, 4)), r"VAE.decode: z .*\(..., 3\)"),
    "elbo: signed": (lambda: vae.elbo_terms(make_vae(), 2 * X - 1), "must hold only 0 and 1"),
    "train: no images": (
        lambda: vae.train_small(torch.zeros(0, 1, 28, 28).byte(), 1),
        "train_small: ",
    ),
    "train: signed": (lambda: vae.train_small(to_signed(images_of(0).byte()), 1), r"\[0, 1\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_pictures_get_one_message_that_says_what_and_where(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 220


IMAGES = (255 * X).reshape(6, 1, 28, 28).byte()
SIZES = {  # "FUNCTION: ARGUMENT" of the message -> a call with that argument
    "VAE: z_dim": lambda n: vae.VAE(n),
    "mlp: hidden": lambda n: vae.VAE(2, hidden=n),
    "mlp: inputs": lambda n: vae.VAE(2, pixels=n),
    "mlp: outputs": lambda n: vae.mlp(2, 2, 1, n),
    "train_small: num_steps": lambda n: vae.train_small(IMAGES, n),
    "ConvVAE: z_dim": lambda n: vae.ConvVAE(n),
    "ConvVAE: hidden": lambda n: vae.ConvVAE(2, hidden=n),
}


@pytest.mark.parametrize("value", [0, -1, 2.0, math.nan, True, None, "3"], ids=str)
@pytest.mark.parametrize("name", SIZES)
def test_a_size_is_a_whole_number_of_at_least_one(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1, got"):
        SIZES[name](value)


@pytest.mark.parametrize("name", SIZES)
def test_a_size_of_one_is_none_too_small(name):
    SIZES[name](1)


@pytest.mark.parametrize("value", [-1, -0.5, math.nan, math.inf, None, "1"], ids=str)
@pytest.mark.parametrize("name", ["beta", "lr"])
def test_a_weight_is_finite_and_not_negative(name, value):
    with pytest.raises(
        ValueError, match=f"train_small: {name} must be a finite number of at least 0"
    ):
        vae.train_small(IMAGES, 1, **{name: value})


@pytest.mark.parametrize("value", [0, 3, 6, 2.0, None], ids=str)
def test_the_channels_come_in_groups_of_four(value):
    with pytest.raises(ValueError, match="ConvVAE: width must be a"):
        vae.ConvVAE(2, width=value)


@pytest.mark.parametrize("value", [-1, 1.5, math.nan], ids=str)
def test_a_warm_up_is_a_number_of_steps(value):
    with pytest.raises(
        ValueError, match="train_small: warmup must be a whole number of at least 0"
    ):
        vae.train_small(IMAGES, 1, warmup=value)


def test_zero_is_a_weight_like_any_other():
    """Not taken for "not given": with weight 0 the rate grows freely, and a warm-up of 0 steps is none."""
    free = vae.train_small(IMAGES, 12, beta=0)[1][-1].sum()
    assert free > vae.train_small(IMAGES, 12, beta=1.0)[1][-1].sum()
    plain = vae.train_small(IMAGES, 3, warmup=0)[1]
    assert torch.equal(plain, vae.train_small(IMAGES, 3)[1])


# ---------------------------------------------------------------- exercises

ANSWERS = {  # number -> (an answer that works in place and is right, others that are wrong)
    1: ("nats = 0.125 + math.log(2)", "nats = 0.5 * (1 + 0.5 - 1 - math.log(0.5))"),
    2: (
        """
def posterior_of_two(x1, x2, w, s):
    precision = 1 + 2 * (w / s) ** 2
    return w * (x1 + x2) / s**2 / precision, 1 / precision
""",
        """
def posterior_of_two(x1, x2, w, s):
    precision = 1 + (w / s) ** 2
    return w * (x1 + x2) / 2 / s**2 / precision, 1 / precision
""",
    ),
    3: (
        """
def kl_two_gaussians(mu1, logvar1, mu2, logvar2):
    mu1 -= mu2
    logvar1 -= logvar2
    mu1.square_().div_(logvar2.exp_())
    return 0.5 * (mu1 + logvar1.exp() - 1 - logvar1)
""",
        """
def kl_two_gaussians(mu1, logvar1, mu2, logvar2):
    for x in (mu1, logvar1, mu2, logvar2):
        x.zero_()
    return 0 * mu1
""",
    ),
    4: ("hidden_beta = 39.2", "hidden_beta = 20 / 784", "hidden_beta = 784"),
    5: (
        """
def seen_log_likelihood(logits, x, seen):
    nothing = torch.where(seen, 0.0, -1e9)  # white with probability 0: a black pixel costs nothing
    return bernoulli_log_likelihood(logits.mul_(seen).add_(nothing), x.mul_(seen))
""",
        """
def seen_log_likelihood(logits, x, seen):
    return bernoulli_log_likelihood(logits, x.mul_(seen))
""",
        """
def seen_log_likelihood(logits, x, seen):
    return bernoulli_log_likelihood(logits, x)
""",
    ),
    6: (
        """
def my_vae():
    model = ConvVAE(z_dim=16)
    return model, torch.optim.Adam(model.parameters(), lr=3e-3)
""",
        """
def my_vae():
    model = VAE(z_dim=8)
    return model, torch.optim.Adam(model.parameters(), lr=1e-6)
""",
    ),
}


def test_answers_that_work_in_place_are_marked_for_what_they_are():
    assert_marked(NAME, ANSWERS)


@pytest.mark.exhaustive
def test_answers_to_the_open_task_are_marked_for_what_they_are():
    assert_marked(NAME, ANSWERS, only_open=True)


# ---------------------------------------------------------------- panels

PICTURES = draw_binary(120)
LABELS = torch.arange(120) % 10
BETAS = [0.1, 1.0, 10.0, 100.0]


def small_models(num, z_dim):
    """So many untrained VAEs, all different, whose pictures differ too."""
    torch.manual_seed(1)
    models = [vae.VAE(z_dim, hidden=16, blocks=1) for _ in range(num)]
    with torch.no_grad():
        for model in models:
            model.decoder[0].weight.mul_(5)
            model.decoder[-1].weight.mul_(8)
    return models


def make_morph():
    return panels.vae.morph(small_models(1, 4)[0], PICTURES, LABELS)


def make_map():
    return panels.vae.latent_map(small_models(1, 2)[0], PICTURES, LABELS)


def make_kept_map():
    return panels.vae.latent_map()


def make_dial():
    models = dict(zip(BETAS, small_models(4, 2), strict=True))
    curve = {beta: (3.0 / beta, 150.0 + beta) for beta in BETAS}
    return panels.vae.beta_dial(models, curve, PICTURES, num_steps=30)


def make_holes():
    autoencoder, model = small_models(2, 8)
    codes = 3 * torch.randn(2, 200, 8, generator=seeded()) + 1
    return panels.vae.holes(autoencoder, model, *codes)


MAKERS = {
    "be_the_encoder": lambda: panels.vae.be_the_encoder(),
    "reparameterise": lambda: panels.vae.reparameterise(),
    "noise_line": lambda: panels.vae.noise_line(),
    "kept_map": make_kept_map,
    "morph": make_morph,
    "latent_map": make_map,
    "beta_dial": make_dial,
    "holes": make_holes,
}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def test_every_control_and_button_draws_once_and_all_can_be_read(make):
    use_every_control(make())


def test_a_panel_answers_within_100_ms(make):
    panel = make()
    for key, control in panel.controls.items():
        assert answers_within(panel, 100, **{key: other_value(control)}), f"{panel.title}, {key}"


@pytest.mark.exhaustive
def test_two_panels_of_a_kind_moved_at_once_draw_what_each_would_alone(make):
    assert moved_together(make) == 0


def test_a_storyboard_is_the_same_each_time_and_the_page_is_left_alone(make):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = make()
    own = ("be_the_encoder", "reparameterise", "noise_line", "kept_map")
    if make in [MAKERS[name] for name in own]:  # the others make models here, from the global generator
        assert torch.equal(torch.get_rng_state(), before)
    assert first._storyboard == make()._storyboard


def test_a_panel_owns_its_model():
    model = small_models(1, 2)[0].train()
    panel = panels.vae.latent_map(model, PICTURES, LABELS)
    shown = panel.picture.value
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    panel.redraw()
    assert panel.picture.value == shown and model.training


def test_without_the_trick_no_gradient_is_found_and_with_it_the_known_one():
    panel = panels.vae.reparameterise()
    panel.set(mu=-1.0, sigma=0.8, n=1000)
    numbers = re.findall(r"-?\d+\.\d\d", panel.status.value)
    assert [float(n) for n in numbers[-4:]] == pytest.approx([-4.0, 1.6, -4.0, 1.6], abs=0.3)
    shown = picture(panel)
    panel.set(trick=False)
    assert "No gradient" in panel.status.value
    assert not np.array_equal(picture(panel), shown)


def test_the_gradient_is_that_of_the_mean_cost():
    eps = torch.randn(50, generator=seeded())
    z, (at_mu, at_sigma) = panels.vae.estimate_gradient(0.5, 2.0, eps, True)
    torch.testing.assert_close(z, 0.5 + 2 * eps)
    assert at_mu == pytest.approx(2 * (z - 1).mean().item(), rel=1e-4)
    assert at_sigma == pytest.approx(2 * ((z - 1) * eps).mean().item(), rel=1e-4)
    with torch.no_grad():  # as in a callback
        assert panels.vae.estimate_gradient(0.5, 2.0, eps, False)[1] is None


def test_both_ends_of_a_morph_are_the_reconstructions():
    model = small_models(1, 4)[0]
    a, b = PICTURES[0], PICTURES[2]
    with torch.no_grad():
        mu, _ = model.encode(PICTURES[[0, 2]])
        ends = torch.sigmoid(model.decode(mu))
        blend, decoded = panels.vae.interpolate(model, a, b, 0.25)
    torch.testing.assert_close(decoded[[0, 4]], ends)
    torch.testing.assert_close(blend[[0, 4]], torch.stack([a, b]))
    torch.testing.assert_close(decoded[5], decoded[1])
    torch.testing.assert_close(blend[5], 0.75 * a + 0.25 * b)


def test_a_morph_of_few_pictures_and_a_map_of_few_digits_can_be_drawn():
    assert panels.vae.morph(small_models(1, 4)[0], PICTURES[:5], LABELS[:5]).controls["b"].max == 4
    sixes = panels.vae.latent_map(small_models(1, 2)[0], PICTURES[:7], torch.full((7,), 6))
    assert sixes.error is None and "of 7 test digits" in sixes.status.value


def test_the_map_counts_the_digits_near_the_cross():
    model = small_models(1, 2)[0]
    panel = panels.vae.latent_map(model, PICTURES, LABELS)
    codes = model.encode(PICTURES)[0].detach()
    spot = [round(20 * x) / 20 for x in codes[0].tolist()]
    panel.set(z1=spot[0], z2=spot[1])
    near = ((codes - torch.tensor(spot)).norm(dim=1) < 0.5).sum().item()
    assert near > 0 and f"{near} of 120 test digits" in panel.status.value


def test_the_map_shows_what_is_decoded_at_its_tiles():
    model = small_models(1, 2)[0]
    mosaic = torch.tensor(panels.vae.map_of_tiles(model))
    ticks = panels.vae.tile_positions()
    with torch.no_grad():
        top_left = torch.sigmoid(model.decode(torch.stack([ticks[0], ticks[-1]])[None]))
        right_of_it = torch.sigmoid(model.decode(torch.stack([ticks[1], ticks[-1]])[None]))
    torch.testing.assert_close(mosaic[:28, :28], top_left.reshape(28, 28), atol=1e-5, rtol=0)
    torch.testing.assert_close(mosaic[:28, 28:56], right_of_it.reshape(28, 28), atol=1e-5, rtol=0)


def test_the_encoder_panel_closes_its_gap_at_the_posterior_and_only_there():
    panel = panels.vae.be_the_encoder()
    gaps = {}
    panel.set(mu=1.2, sigma=0.45)
    assert "gap" not in panel.status.value, "the posterior is hidden until it is asked for"
    hidden = picture(panel)
    panel.set(posterior=True)
    assert not np.array_equal(hidden, picture(panel))
    for mu, sigma in ((1.2, 0.45), (0.8, 0.45), (1.2, 0.8), (1.6, 0.3)):
        panel.set(mu=mu, sigma=sigma)
        gaps[mu, sigma] = float(re.search(r"gap (\d+\.\d+)", panel.status.value)[1])
    assert gaps.pop((1.2, 0.45)) == 0.0 and min(gaps.values()) > 0.1


def test_a_direction_is_worth_half_the_logarithm_of_what_stands_above_the_line():
    assert panels.vae.worth(4.0, 0.5) == pytest.approx(0.5 * math.log(8))
    assert panels.vae.worth(0.25, 0.5) == 0.0 and panels.vae.worth(1.0, 1.0) == 0.0
    panel = panels.vae.noise_line()
    panel.set(noise=0.5, beta=4.0)
    assert "1 of 3 directions" in panel.status.value
    panel.set(noise=0.1, beta=1.0)
    assert "3 of 3 directions" in panel.status.value


def test_the_line_between_two_codes_has_their_ends():
    model = small_models(1, 4)[0]
    with torch.no_grad():
        mu, _ = model.encode(PICTURES[[3, 8]])
    line = panels.vae.line_of_codes(model, PICTURES[3], PICTURES[8])
    torch.testing.assert_close(line[[0, 8]], mu)
    torch.testing.assert_close(line[4], mu.mean(dim=0))


@pytest.mark.parametrize("picture_of", ["vae_diagram", "conv_shapes", "between", "labelled_rows"])
def test_the_pictures_of_the_page_can_be_read(picture_of):
    if picture_of == "vae_diagram":
        fig = panels.vae.vae_diagram()
    elif picture_of == "conv_shapes":
        fig = panels.vae.conv_shapes()
    elif picture_of == "labelled_rows":
        fig = panels.vae.labelled_rows({"search, and the pixel seen": 2 * PICTURES[:8] - 1, "x": -PICTURES[:8]})
    else:
        autoencoder, model = small_models(2, 8)
        with torch.no_grad():
            fig = panels.vae.between(autoencoder, model, [(PICTURES[0], PICTURES[1])])
    assert not faint_texts(fig) and not cropped_texts(fig)


def test_the_toy_of_the_dial_trains_in_chunks_and_starts_anew_with_beta():
    panel = make_dial()
    assert "Kept model" in panel.status.value, "the digits need no training"
    panel.play.value += 1
    assert panel.values["data"] == "toy" and "beta = 1, step 15" in panel.status.value, "Run trains the toy"
    panel.set(data="digits")
    panel.set(data="toy")
    assert "beta = 1, step 0" in panel.status.value
    panel.controls["power"].value = -0.5
    assert "beta = 0.32, step 0" in panel.status.value
    for _ in range(3):
        panel.play.value += 1
    assert panel.error is None and "step 45" in panel.status.value
    panel.redraw()
    assert "step 45" in panel.status.value
    panel.controls["power"].value = 1.0
    assert "beta = 10, step 0" in panel.status.value
    assert_readable(panel)


def test_the_toy_learns_and_a_look_at_it_changes_nothing():
    looked, alone = panels.vae.ToyVAE(0.1), panels.vae.ToyVAE(0.1)
    start = alone.measure()
    for _ in range(20):
        looked.train()
        looked.measure()
    alone.train(300)
    assert looked.step == alone.step == 300 and looked.measure() == alone.measure()
    assert alone.measure()[1] < 0.2 * start[1]


def test_a_large_beta_costs_the_toy_its_rate():
    cheap, dear = panels.vae.ToyVAE(0.1), panels.vae.ToyVAE(100.0)
    for toy in (cheap, dear):
        toy.train(150)
    assert dear.measure()[0] < 0.3 * cheap.measure()[0]


def test_the_third_row_of_holes_has_the_mean_and_covariance_of_the_codes(monkeypatch):
    """With a decoder that hands its input on, what is drawn is u itself."""
    seen = {}
    monkeypatch.setattr(
        panels.vae, "_draw_pictures", lambda ax, logits, ncols, title: seen.update({title.split(" (")[0]: logits})
    )
    codes = torch.randn(500, 8, generator=seeded()) @ torch.randn(8, 8, generator=seeded(1)) + 2
    models = small_models(2, 8)
    for model in models:
        model.decoder = torch.nn.Identity()
        model.pixels = model.z_dim
    panel = panels.vae.holes(*models, codes, codes)
    u = []
    fitted = []
    for seed in range(51):
        panel.set(seed=seed, reach=2.0)
        u.append(seen["VAE at u"])
        fitted.append(seen["autoencoder, u fitted to its codes"])
    u = torch.cat(u)
    fitted = torch.cat(fitted)
    assert u.std().item() == pytest.approx(2.0, rel=0.05)
    want = codes.mean(dim=0) + u @ torch.linalg.cholesky(torch.cov(codes.T)).T
    torch.testing.assert_close(fitted, want, rtol=1e-4, atol=1e-4)
    assert torch.equal(seen["autoencoder at u"], seen["VAE at u"])


# ---------------------------------------------------------------- seeded faults

page = partial(in_notebook, NAME)
panel = partial(in_panels, "vae")
SAMPLE = "return mu + (0.5 * logvar).exp() * eps"

FAULTS = [
    page("KL: sign of the log-variance", "exp() - 1 - logvar)", "exp() - 1 + logvar)"),
    page("KL without the half", "return 0.5 * (mu.square()", "return (mu.square()"),
    page(
        "KL: log-variance taken for the variance",
        "mu.square() + logvar.exp()",
        "mu.square() + logvar",
    ),
    page("log-variance taken for the log of the width", SAMPLE, "return mu + logvar.exp() * eps"),
    page(
        "no reparameterisation", SAMPLE, "return (mu + (0.5 * logvar).exp() * eps).detach()"
    ),
    page(
        "likelihood averaged over pixels",
        "- F.softplus(logits)).sum(dim=-1)",
        "- F.softplus(logits)).mean(dim=-1)",
    ),
    page(
        "likelihood with the wrong sign",
        "return (x * logits - F.softplus(logits))",
        "return (F.softplus(logits) - x * logits)",
    ),
    page(
        "evidence identity: KL added, not subtracted",
        "elbo = expected - kl_on_grid",
        "elbo = expected + kl_on_grid",
    ),
    page(
        "evidence of the linear model without the noise",
        "variance = w**2 + s**2",
        "variance = w**2",
    ),
    page(
        "exact posterior without the noise variance",
        "return variance * w * x / s**2, variance",
        "return variance * x / s**2, variance",
    ),
    page(
        "posterior as wide as the prior",
        "variance = 1 / (1 + w**2 / s**2)",
        "variance = 1 / (1 + 0 * w**2 / s**2)",
    ),
    page("score function divided by the width only", "(z_drawn - mu) / 0.8**2", "(z_drawn - mu) / 0.8"),
    page("the slope at sigma without the chain rule", "at_sigma = 2 * at_logvar / 0.8", "at_sigma = at_logvar"),
    page("the bell is taught to lower the bound", "loss = -elbo\n", "loss = elbo\n"),
    page("pixels binarised the wrong way round", "(noise < share)", "(noise > share)"),
    page(
        "pictures scaled twice",
        'as_unit(pixels, "binarise")',
        'as_unit(pixels, "binarise") / 255',
        "test_pictures_of_every_type_are_binarised_to_the_same_share_of_white",
    ),
    page(
        "grey pictures are taken for binary ones",
        "wrong = ((x != 0) & (x != 1))",
        "wrong = ((x < 0) | (x > 1))",
        "test_wrong_pictures_get_one_message_that_says_what_and_where",
    ),
    page(
        "a negative weight is a weight",
        'require_number("train_small", "beta", beta, least=0)',
        'require_number("train_small", "beta", beta)',
        "test_a_weight_is_finite_and_not_negative",
    ),
    page(
        "a residual block that forgets its input",
        "return h + F.silu(",
        "return F.silu(",
        "test_a_residual_block_whose_layer_returns_zero_passes_its_input_on",
    ),
    page(
        "a map block that forgets its input",
        "return h + self.second(",
        "return self.second(",
        "test_a_new_map_block_passes_its_input_on_and_learns_not_to",
    ),
    page(
        "the decoder never sees the encoder's z",
        "z = reparameterise(mu, logvar, generator) if sample else mu",
        "z = torch.randn_like(mu)",
        "test_the_distortion_reaches_the_encoder_through_z",
    ),
    page(
        "warm-up the wrong way round",
        "beta * min(1.0, step / warmup)",
        "beta * max(0.0, 1 - step / warmup)",
        "test_train_small_is_repeatable_and_warm_up_begins_with_a_free_rate",
    ),
    page(
        "mark 4 averages the rate over the latent numbers",
        "R = gaussian_kl(mu, logvar).sum(dim=1).mean()\n    check(\"784",
        "R = gaussian_kl(mu, logvar).mean()\n    check(\"784",
        "exercises",
    ),
    page(
        "mark 5 takes unseen pixels for black ones",
        "known = bernoulli_log_likelihood(logits[:, seen], x[:, seen])",
        "known = bernoulli_log_likelihood(logits, x * seen)",
        "exercises",
    ),
    page("KL of the wrong of the two", "log_q.exp() * (log_q - log_p), z)", "log_p.exp() * (log_q - log_p), z)"),
    page(
        "a posterior that is not normalised",
        "log_posterior = log_likelihood + log_prior - log_evidence",
        "log_posterior = log_likelihood + log_prior",
    ),
    page(
        "one seed for all",
        "z_dim=8, seed=seed, **switches)",
        "z_dim=8, **switches)",
        "test_the_parts_are_taken_away_one_at_a_time",
    ),
    page(
        "each model sees other batches",
        "elbo_terms(model, x, sample, noise)",
        "elbo_terms(model, x, sample, noise and data)",
        "test_models_of_one_seed_see_the_same_batches",
    ),
    page(
        "a skip that skips nothing",
        "return h + new if self.skip else new",
        "return new",
        "test_the_decoders_of_the_clinic_differ_in_the_skips_alone",
    ),
    page("flipped pixels that are white again", "return (1 - flip) * white + flip * (1 - white)", "return (1 - flip) * white"),
    page(
        "Bayes without what was seen",
        "as_black = (1 - white) * torch.where(noisy == 1, flip, 1 - flip)",
        "as_black = (1 - white) * (1 - flip)",
    ),
    page(
        "the posterior's width with the wrong power of the noise",
        "variance = 1 / (1 + w**2 / s**2)",
        "variance = 1 / (1 + w**2 / s)",
    ),
    page(
        "mark 2 forgets the second measurement",
        "for seen in (x1, x2):",
        "for seen in (x1, x1):",
        "exercises",
    ),
    panel(
        "the trick's switch does nothing",
        "if not trick:",
        "if False:",
        "test_without_the_trick_no_gradient_is_found_and_with_it_the_known_one",
    ),
    panel(
        "the panel's bound forgets q's width in the likelihood",
        "misfit = (x - w * mu) ** 2 + (w * sigma) ** 2",
        "misfit = (x - w * mu) ** 2",
        "test_the_bound_of_the_encoder_panel_is_the_elbo",
    ),
    panel(
        "the map upside down",
        "torch.meshgrid(ticks.flip(0), ticks",
        "torch.meshgrid(ticks, ticks",
        "test_the_map_shows_what_is_decoded_at_its_tiles",
    ),
    panel(
        "the rate of a direction without the half",
        "max(0.0, 0.5 * math.log(variance / line))",
        "max(0.0, math.log(variance / line))",
        "test_a_direction_is_worth_half_the_logarithm_of_what_stands_above_the_line",
    ),
    panel(
        "the morph runs backwards",
        "codes = (1 - stops) * mu[0] + stops * mu[1]",
        "codes = stops * mu[0] + (1 - stops) * mu[1]",
        "test_both_ends_of_a_morph_are_the_reconstructions",
    ),
    panel(
        "a look at the toy moves its training on",
        "self.terms(self.data[:500], _seeded())",
        "self.terms(self.data[:500], self.random)",
        "test_the_toy_learns_and_a_look_at_it_changes_nothing",
    ),
    panel(
        "the toy has no rate to pay for",
        "self.beta * rate.sum(dim=1).mean()",
        "0 * rate.sum(dim=1).mean()",
        "test_a_large_beta_costs_the_toy_its_rate",
    ),
    panel(
        "a new beta goes on with the old toy",
        "self.start(10**value if",
        "(10**value if",
        "test_the_toy_of_the_dial_trains_in_chunks_and_starts_anew_with_beta",
    ),
    panel(
        "codes fitted with the covariance's transposed root",
        "mean + u @ factor.T",
        "mean + u @ factor",
        "test_the_third_row_of_holes_has_the_mean_and_covariance_of_the_codes",
    ),
]
