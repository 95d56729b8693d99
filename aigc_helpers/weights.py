"""Weights in files: your own, and those of the small models that this project trained itself.

    save("generator.safetensors", generator)       # in one chapter
    load("generator.safetensors", generator)       # in another, or tomorrow
    generator = load_model("gan")                  # chapter 01's, trained by its own cells
    gpt.load_state_dict(from_gpt2(state))          # a library's GPT-2 in chapter 03's network

The trained models lie in `assets/`, in 8 bits, each file below 1 MB. They are verified against the
SHA-256 in `assets/manifest.json` when they are read. In a clone of the project,
`python -m tools assets` trains them again, in about ten minutes.
"""

from __future__ import annotations

import collections.abc
import hashlib
import json
import pathlib
import re
from typing import NamedTuple

import torch

from aigc_helpers._files import write_whole

ASSETS = pathlib.Path(__file__).parent / "assets"
COMMAND = "python -m tools assets"
EXPERIMENT_COMMAND = "python -m tools experiment"
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
COMPILED = "_orig_mod."  # what torch.compile puts before the names of a module's weights
SCALE = ":scale"  # the name of a weight's scales, after the weight's own


# ---------------------------------------------------------------- your own weights


def save(path, model, /, **metadata) -> None:
    """Write the weights of a module, or a state dict, to a safetensors file: whole or not at all.

    path: `~` in it is your home folder; folders on the way are made; a symbolic link is followed.
    metadata: strings for the header; `safetensors.safe_open(path, "pt").metadata()` shows them.
    Tied weights are written once under each name; those of a compiled model under the plain names.
    Raises ValueError for what is no module or state dict, weights that are not tensors, metadata
    that are not strings.
    """
    import safetensors.torch

    if not isinstance(model, torch.nn.Module | collections.abc.Mapping):
        raise ValueError(f"save: needs a module or its state dict, got {model!r}")
    weights = model.state_dict() if isinstance(model, torch.nn.Module) else dict(model)
    wrong = [repr(name) for name, value in weights.items() if not torch.is_tensor(value)]
    wrong += [repr(name) for name, value in metadata.items() if not isinstance(value, str)]
    if wrong:
        listed = ", ".join(wrong)
        raise ValueError(f"save: weights must be tensors, metadata strings; not so: {listed}")
    # A copy of its own for each name: safetensors refuses tensors that share memory.
    weights = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in _rename_plainly("save", weights).items()
    }
    content = safetensors.torch.save(weights, metadata or None)
    path = pathlib.Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)


def load(path, model=None, sha256=None):
    """Read what `save` wrote: its state dict or, given a `model`, that model with the weights.

    path: `~` in it is your home folder.
    sha256: the file's digest in hexadecimal; with it, a file that differs in one bit is refused.
    Raises FileNotFoundError, or ValueError if the file is damaged, is something else, or does not
    fit the model, which is then left as it was. Unlike a pickle, the file never holds code.
    """
    import safetensors.torch

    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no weights file {str(path)!r}")
    content = path.read_bytes()
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256.strip().lower():
        raise ValueError(
            f"{path.name}: its SHA-256 is not the expected one. Delete it and get it again."
        )
    try:
        weights = safetensors.torch.load(content)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path.name} is damaged, or not a safetensors file ({error})") from None
    weights = _rename_plainly(path.name, weights)
    if model is None:
        return weights
    wanted = model.state_dict()
    _check_fit(path.name, weights, _rename_plainly("the model", wanted))
    # A compiled model asks for its own names.
    model.load_state_dict({name: weights[name.replace(COMPILED, "")] for name in wanted})
    return model


def _rename_plainly(where, weights):
    """The state dict under the names that it has when nothing in the model is compiled."""
    plain = {name.replace(COMPILED, ""): value for name, value in weights.items()}
    if len(plain) < len(weights):
        twice = next(
            name for name in weights if COMPILED in name and name.replace(COMPILED, "") in weights
        )
        raise ValueError(
            f"{where}: {twice} stands there with and without `{COMPILED}`: keep one of them"
        )
    return plain


def _check_fit(filename, found, wanted):
    """ValueError unless two state dicts have the same names and shapes."""
    problems = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    problems += [f"{name} is unknown to the model" for name in found.keys() - wanted.keys()]
    problems += [
        f"{name} has shape {tuple(found[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in found.keys() & wanted.keys()
        if found[name].shape != wanted[name].shape
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        listed = "; ".join(sorted(problems)[:3])
        raise ValueError(f"{filename} does not fit the model: {listed}{more}")


# ---------------------------------------------------------------- GPT-2's names

# GPT-2's names -> those of chapter 03: of what stands outside of the blocks, and of the parts of a block.
GPT2_OUTSIDE = {
    "wte.weight": "token.weight",
    "wpe.weight": "position.weight",
    "ln_f.weight": "norm.weight",
    "ln_f.bias": "norm.bias",
}
GPT2_PARTS = {
    "ln_1": "norm1",
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.out",
    "ln_2": "norm2",
    "mlp.c_fc": "mlp.up",
    "mlp.c_proj": "mlp.down",
}


def rename_gpt2(name):
    """Chapter 03's name of one of GPT-2's weights. Raises ValueError for one that its GPT has not."""
    if name in GPT2_OUTSIDE:
        return GPT2_OUTSIDE[name]
    found = re.fullmatch(r"h\.(\d+)\.(.+)\.(weight|bias)", name)
    if found is None or found[2] not in GPT2_PARTS:
        raise ValueError(f"from_gpt2: GPT has no place for the weights {name!r}")
    return f"blocks.{found[1]}.{GPT2_PARTS[found[2]]}.{found[3]}"


def from_gpt2(state, config=None, num_heads=None):
    """Weights of `transformers`' GPT-2 language model (a state dict) under the names of chapter 03's GPT.

    The weights do not say for how many heads they were trained, and those of 8 heads fit into 4
    without a word: hand over the library's `config` and our `num_heads`, and they are compared.
    Raises ValueError for a model whose logits GPT would not compute.
    """
    if config is not None:
        _require_like_gpt(config, num_heads)
    state = {name.removeprefix("transformer."): weight for name, weight in state.items()}
    head = state.pop("lm_head.weight", None)
    if head is not None and not torch.equal(head, state.get("wte.weight", head[:0])):
        raise ValueError("from_gpt2: lm_head.weight is not wte.weight, but the head of GPT is tied")
    ours = {}
    for name, weight in state.items():
        if name.endswith((".attn.bias", ".attn.masked_bias")):  # the mask, in old files
            continue
        # Theirs are stored (inputs, outputs), ours the other way; embeddings are (rows, D) in both.
        transposed = name.startswith("h.") and weight.ndim == 2
        ours[rename_gpt2(name)] = weight.T if transposed else weight
    return ours


def _require_like_gpt(config, num_heads):
    """Raise ValueError for a configuration of GPT-2 that a GPT with num_heads does not compute."""
    wanted = {"n_head": num_heads, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}
    wanted |= {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
    for name, value in wanted.items():
        found = getattr(config, name)
        if found != value:
            raise ValueError(f"from_gpt2: {name} is {found!r} there and {value!r} in our GPT")


# ---------------------------------------------------------------- the trained models of the series


def load_model(name):
    """A trained model, on the CPU, in evaluation mode and without gradients.

    "gan"        DigitGenerator: z (N, 64) -> images (N, 1, 28, 28) in [-1, 1]
    "vae"        ConvVAE: z (N, 32) -> logits (N, 784); also `encode` and `decode`
    "vae_map"    VAE with two latent numbers: z (N, 2) -> logits (N, 784); the same
    "gpt"        GPT: tokens (N, T) -> logits (N, T, V), and the Characters that it reads: a pair
    "masked"     Backbone: tokens (N, T), gaps being `mask` -> logits (N, T, V), and its Characters
    "assistant_base"     ModernGPT over the alphabet of `tasks`, which has read plays
    "assistant"          the same, tuned on chats: see `models.assistant.ask`
    "assistant_rewarded" the same after rewards for right sums: chapter 03e
    "diffusion"  UNet: images (N, 1, 28, 28), times (N,), labels (N,) -> velocity (N, 1, 28, 28)
    "scene_clip"         CLIP: `embed_images` and `embed_text` -> vectors (N, 64) of length 1
    "scene_autoencoder"  AutoEncoder: `encode` and `decode`, images (N, 3, 32, 32) <-> (N, 4, 8, 8)
    "caption_dit"        CaptionDiT: latents, times, words, mask -> velocity (N, 4, 8, 8)
    "text_to_image"      TextToImage: the last three together, for `draw(model, tokens)`
    "scene_vq"           SceneVQ: `encode` and `decode`, images (N, 3, 32, 32) <-> codes (N, 64)
    "scene_gpt"          GPT: captions and codes (N, T) -> logits; see `models.dalle.draw_by_codes`
    "vector_prior"       Prior: noisy picture vectors, times, caption vectors -> velocity (N, 64)
    "vector_decoder"     VectorDecoder: latents, times, picture vectors -> velocity (N, 4, 8, 8)

    Raises ValueError for another name, and when the file is not the one that the manifest names.
    """
    if name == "text_to_image":
        return _assemble_text_to_image()
    if name not in BUILDERS:
        known = ", ".join([*BUILDERS, "text_to_image"])
        raise ValueError(f"load_model: unknown model {name!r}; choose one of {known}")
    weights, about = read_asset(f"{name}.safetensors")
    # The first weights are drawn and thrown away: the global generators stay where they were.
    with torch.random.fork_rng(devices=[]):
        model, *companions = BUILDERS[name](about)
    model.load_state_dict(weights)
    model.eval().requires_grad_(False)
    return (model, *companions) if companions else model


def _build_gan(about):
    from aigc_helpers.models.gan import DigitGenerator

    return [DigitGenerator()]


def _build_vae(about):
    from aigc_helpers.models.vae import ConvVAE

    return [ConvVAE()]


def _build_vae_map(about):
    from aigc_helpers.models.vae import VAE

    return [VAE(z_dim=2)]


def _build_gpt(about):
    from aigc_helpers.models.gpt import GPT, Characters

    characters = Characters(about["alphabet"])
    return [GPT(len(characters)), characters]


def _build_masked(about):
    from aigc_helpers.models.gpt import Characters
    from aigc_helpers.models.objectives import Backbone

    characters = Characters(about["alphabet"])
    return [Backbone(len(characters), context=64, width=128, num_heads=4, num_blocks=2), characters]


def _build_assistant(about):
    from aigc_helpers.models.assistant import make_gpt

    return [make_gpt()]


def _build_diffusion(about):
    from aigc_helpers.models.diffusion import UNet

    return [UNet()]


def _build_scene_clip(about):
    from aigc_helpers.models.text_to_image import CLIP

    return [CLIP()]


def _build_scene_autoencoder(about):
    from aigc_helpers.models.text_to_image import AutoEncoder

    return [AutoEncoder()]


def _build_caption_dit(about):
    from aigc_helpers.models.text_to_image import CaptionDiT

    return [CaptionDiT()]


def _build_scene_vq(about):
    from aigc_helpers.models.dalle import SceneVQ

    return [SceneVQ()]


def _build_scene_gpt(about):
    from aigc_helpers.models.dalle import make_scene_gpt

    return [make_scene_gpt()]


def _build_vector_prior(about):
    from aigc_helpers.models.dalle import Prior

    return [Prior()]


def _build_vector_decoder(about):
    from aigc_helpers.models.dalle import VectorDecoder

    return [VectorDecoder()]


def _assemble_text_to_image():
    """What draws a caption: three files, each below 1 MB."""
    from aigc_helpers.models.text_to_image import TextToImage

    text = load_model("scene_clip").text
    return TextToImage(text, load_model("caption_dit"), load_model("scene_autoencoder")).eval()


# name -> what makes the untrained model, and what comes along with it, from the file's header
BUILDERS = {
    "gan": _build_gan,
    "vae": _build_vae,
    "vae_map": _build_vae_map,
    "gpt": _build_gpt,
    "masked": _build_masked,
    "assistant_base": _build_assistant,
    "assistant": _build_assistant,
    "assistant_rewarded": _build_assistant,
    "diffusion": _build_diffusion,
    "scene_clip": _build_scene_clip,
    "scene_autoencoder": _build_scene_autoencoder,
    "caption_dit": _build_caption_dit,
    "scene_vq": _build_scene_vq,
    "scene_gpt": _build_scene_gpt,
    "vector_prior": _build_vector_prior,
    "vector_decoder": _build_vector_decoder,
}


# ---------------------------------------------------------------- the files in assets/


def read_asset(file):
    """(weights as float32, header) of a file in `assets/`, verified against `manifest.json`.

    Raises ValueError, naming the command that makes it again, unless it is the manifest's file.
    """
    import safetensors.torch

    raw = _read_verified(file, COMMAND)
    length = int.from_bytes(raw[:8], "little")  # of the header, which is JSON
    about = json.loads(raw[8 : 8 + length]).get("__metadata__", {})
    return unpack(safetensors.torch.load(raw)), about


def write_asset(file, weights, made_by, **about):
    """Write weights to a file in `assets/`, and its SHA-256 and the command into the manifest.

    about: strings for the file's header. Returns the number of bytes.
    """
    save(ASSETS / file, weights, **about)
    return _note_in_manifest(file, made_by)


class Experiment(NamedTuple):
    """Rows, row's name -> {column: value}, and where they come from, in a line."""

    rows: dict
    provenance: str


def read_experiment(name):
    """The table of an experiment that outlasts a page's minutes, verified against `manifest.json`.

    Returns an Experiment: `rows` for `plotting.show_table`, `provenance` for its caption.
    Raises ValueError, naming the command that makes it again, unless it is the manifest's file.
    """
    raw = _read_verified(f"experiments/{name}.json", f"{EXPERIMENT_COMMAND} {name}")
    record = json.loads(raw)
    year, month, day = record["date"].split("-")
    seeds = len(record["seeds"])
    provenance = (
        f"Measured by `{record['command']}` on {int(day)} {MONTHS[int(month) - 1]} {year}, in "
        f"{record['seconds']} s on {record['processor']}, PyTorch {record['torch']}, "
        f"{seeds} seed{'s' if seeds > 1 else ''}."
    )
    return Experiment(record["rows"], provenance)


def write_experiment(name, record):
    """Write an experiment's record (a dict) into `assets/experiments/`. Returns bytes."""
    file = f"experiments/{name}.json"
    (ASSETS / file).parent.mkdir(exist_ok=True)
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    write_whole(ASSETS / file, text.encode())
    return _note_in_manifest(file, record["command"])


def _read_verified(file, remedy):
    """The bytes of a file in `assets/`, if they are those that the manifest names."""
    entry = _manifest().get(file)
    path = ASSETS / file
    if entry is None or not path.exists():
        raise ValueError(
            f"{file} is not in aigc_helpers/assets: reinstall, or run `{remedy}` to make it"
        )
    raw = path.read_bytes()
    if hashlib.sha256(raw).hexdigest() != entry["sha256"]:
        made_by = entry["made_by"]
        raise ValueError(f"{file} is damaged: reinstall, or run `{made_by}` to make it again")
    return raw


def _note_in_manifest(file, made_by):
    raw = (ASSETS / file).read_bytes()
    manifest = _manifest()
    digest = hashlib.sha256(raw).hexdigest()
    manifest[file] = {"sha256": digest, "bytes": len(raw), "made_by": made_by}
    text = json.dumps(dict(sorted(manifest.items())), indent=1) + "\n"
    write_whole(ASSETS / "manifest.json", text.encode())
    return len(raw)


def _manifest():
    path = ASSETS / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def pack(state):
    """A state dict of 8-bit matrices and kernels, with one scale a row, and 16-bit vectors.

    Each weight (rows, ...) becomes int8 of the same shape beside `<name>:scale` (rows,): it is off
    by half a step of its row at most. `unpack` turns it back. Raises ValueError for values that
    are not finite or, in a vector, do not fit into 16 bits.
    """
    small = {}
    for name, weight in state.items():
        if not weight.is_floating_point():
            small[name] = weight
        elif weight.ndim < 2:
            small[name] = weight.half()
        else:
            rows = weight.float().flatten(1)
            scale = rows.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
            small[name] = (rows / scale).round().to(torch.int8).reshape(weight.shape)
            small[name + SCALE] = scale.flatten()
    bad = [name for name, weight in small.items() if not weight.isfinite().all()]
    if bad:
        raise ValueError(
            f"pack: {bad[0]} has values that are not finite or do not fit into 16 bits"
        )
    return small


def unpack(small):
    """The state dict that `pack` made small, in float32; whole numbers as they are."""
    state = {}
    for name, weight in small.items():
        if name.endswith(SCALE):
            continue
        if name + SCALE in small:
            scale = small[name + SCALE].reshape(-1, *[1] * (weight.ndim - 1))
            weight = weight.float() * scale
        state[name] = weight.float() if weight.is_floating_point() else weight
    return state
