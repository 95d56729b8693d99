"""Generated from notebooks/03_gpt.ipynb: edit it there, then run `python -m aigc_helpers.notebooks export`."""

import collections
import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class Characters:
    """The alphabet of a text: from characters to token numbers 0, 1, ..., V - 1, and back."""

    def __init__(self, text):
        self.alphabet = sorted(set(text))
        self.number = {c: i for i, c in enumerate(self.alphabet)}

    def __len__(self):
        return len(self.alphabet)

    def encode(self, text):
        """Token numbers (T,) int64. Raises ValueError, naming them, for characters that are not in the alphabet."""
        unknown = "".join(sorted(set(text) - set(self.number)))
        if unknown:
            raise ValueError(f"these characters are not in the alphabet: {unknown[:20]!r}; leave them out, or use read")
        return torch.tensor([self.number[c] for c in text], dtype=torch.long)

    def decode(self, tokens):
        """The text of token numbers (T,)."""
        return "".join(self.alphabet[int(token)] for token in tokens)

    def read(self, prompt):
        """A reader's own words, whatever they are: tokens (T,), at least one, and a remark on what was left out."""
        kept = "".join(c for c in prompt if c in self.number)
        left_out = len(prompt) - len(kept)
        remark = f"Left out {left_out} characters that the training text never uses. " if left_out else ""
        if not kept:
            kept, remark = "\n", remark + "Nothing to go on: starting from a new line. "
        return self.encode(kept), remark


class CountedModel:
    """What followed the last 0, 1, ..., `order` tokens, and how often, in tokens (T,); section 1 explains it."""

    def __init__(self, tokens, vocab, order):
        self.vocab, self.order, sequence = vocab, order, tokens.tolist()
        self.followers = collections.defaultdict(collections.Counter)    # context -> next token -> how often
        for n in range(order + 1):
            for k in range(n, len(sequence)):
                self.followers[tuple(sequence[k - n : k])][sequence[k]] += 1

    def probability(self, context, token):
        """p(token | context) for a list of tokens and a token: eq. (4); Witten & Bell 1991, method C."""
        p = 1 / self.vocab
        for n in range(min(self.order, len(context)) + 1):
            counts = self.followers.get(tuple(context[len(context) - n :]))
            if counts is None:
                break
            p = (counts[token] + len(counts) * p) / (counts.total() + len(counts))
        return p

    def log_probabilities(self, tokens):
        """log p (V,) of every possible next token after tokens (T,)."""
        context = tokens[-self.order :].tolist() if self.order else []
        return torch.tensor([self.probability(context, token) for token in range(self.vocab)]).log()

    def losses(self, tokens):
        """-log p, nats, of each of tokens (T,) after those before it."""
        text, n = tokens.tolist(), self.order
        return -torch.tensor([self.probability(text[max(0, k - n) : k], text[k]) for k in range(len(text))]).log()


def next_probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """Probabilities (..., V) of the next token, from logits (..., V).

    Softmax at a temperature (0: all on the largest), cut to the top_k likeliest, then to the smallest set of them
    whose share reaches top_p (Holtzman 2019, arXiv 1904.09751, eq. 2), and brought back to a sum of 1.
    """
    if temperature == 0:
        return F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float()
    p, order = (logits / temperature).softmax(dim=-1).sort(dim=-1, descending=True)
    if top_k is not None:
        p[..., top_k:] = 0
        p = p / p.sum(dim=-1, keepdim=True)
    if top_p is not None:
        p = p * (p.cumsum(dim=-1) - p < top_p)       # kept as long as those before it fall short of top_p
    p = torch.zeros_like(p).scatter(-1, order, p)
    return p / p.sum(dim=-1, keepdim=True)


def causal_mask(T, S=None):
    """(T, S) bool: True where the last T of S places may look, at themselves and at what came before."""
    S = T if S is None else S
    return torch.ones(T, S, dtype=torch.bool).tril(S - T)


def attention(q, k, v, mask=None):
    """Eq. (6) for q (..., T, d), k and v (..., S, d), mask (T, S) bool: values (..., T, d) and weights (..., T, S)."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(dim=-1)                               # over the places that are looked at
    return weights @ v, weights


def influence(function, h):
    """(T, T): how much function(h)[0, t] feels h[0, s], for h (1, T, D); row t, column s.

    The outputs of a place are many; each is weighted by a fixed random number, so that no leak cancels by accident.
    """
    h = h.detach().requires_grad_()
    out = function(h)[0]                                           # (T, outputs)
    direction = torch.randn(out.shape[-1], generator=torch.Generator().manual_seed(0))
    rows = [torch.autograd.grad(place @ direction, h, retain_graph=True)[0][0] for place in out]     # each (T, D)
    return torch.stack([row.norm(dim=-1) for row in rows])


class Cache:
    """The keys and values of all places read so far, for each attention layer."""

    def __init__(self):
        self.kept = {}

    def extend(self, layer, k, v):
        """Append k and v (N, heads, T, d) to what the layer has kept; returns all of them."""
        if layer in self.kept:
            k, v = (torch.cat([old, new], dim=2) for old, new in zip(self.kept[layer], (k, v)))
        self.kept[layer] = k, v
        return k, v

    def __len__(self):
        return next(iter(self.kept.values()))[0].shape[2] if self.kept else 0


class SelfAttention(nn.Module):
    """h (N, T, D) -> (N, T, D), with num_heads heads of width D / num_heads; Vaswani 2017, section 3.2."""

    def __init__(self, width, num_heads, causal=True):
        super().__init__()
        self.num_heads, self.causal = num_heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def split(self, h):
        """Queries, keys and values (N, heads, T, d) of h (N, T, D)."""
        N, T, D = h.shape
        return self.qkv(h).view(N, T, 3, self.num_heads, D // self.num_heads).permute(2, 0, 3, 1, 4)

    def forward(self, h, cache=None):
        q, k, v = self.split(h)
        if cache is not None:
            k, v = cache.extend(self, k, v)
        T, S = q.shape[2], k.shape[2]
        if T == S:
            h = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:                                                     # T new places after S - T old ones
            h = F.scaled_dot_product_attention(q, k, v, attn_mask=causal_mask(T, S).to(q.device))
        return self.out(h.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """h (N, T, D) -> (N, T, D): attention, then a perceptron of width 4 D, each added to the residual stream; eq. (8)."""

    def __init__(self, width, num_heads, causal=True):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), SelfAttention(width, num_heads, causal)
        self.norm2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h, cache=None):
        h = h + self.attention(self.norm1(h), cache)
        return h + self.down(F.gelu(self.up(self.norm2(h)), approximate="tanh"))


class GPT(nn.Module):
    """Tokens (N, T) -> logits (N, T, V): the architecture of GPT-2 (Radford 2019), eq. (9).

    With a Cache, the tokens are those that follow what the cache has read. Raises ValueError beyond the context.
    """

    def __init__(self, vocab, context=64, width=128, num_heads=4, num_blocks=4, causal=True):
        super().__init__()
        self.context = context
        self.token, self.position = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, num_heads, causal) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(width)
        for name, weight in self.named_parameters():              # small, and smaller where the stream is added to
            if weight.ndim == 2:
                adds = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * num_blocks) if adds else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def embed(self, tokens, start=0):
        """The residual stream (N, T, D) at the entrance, for tokens (N, T) at places start, start + 1, ..."""
        if start + tokens.shape[1] > self.context:
            got = start + tokens.shape[1]
            raise ValueError(f"{got} tokens are more than the context of {self.context} holds: give the last ones only")
        return self.token(tokens) + self.position.weight[start : start + tokens.shape[1]]

    def read_out(self, h):
        """Logits (N, T, V) from the residual stream h (N, T, D)."""
        return F.linear(self.norm(h), self.token.weight).float()

    def forward(self, tokens, cache=None):
        h = self.embed(tokens, len(cache) if cache is not None else 0)
        for block in self.blocks:
            h = block(h, cache)
        return self.read_out(h)


def future_share(model, tokens):
    """Of all that the logits feel from the embeddings of tokens (T,), the share from later places: 0 if causal."""

    def above(h):
        for block in model.blocks:
            h = block(h)
        return model.read_out(h)

    felt = influence(lambda h: above(h).log_softmax(dim=-1), model.embed(tokens[None]))
    return (felt.triu(1).sum() / felt.sum()).item()


def from_gpt2(state):
    """Weights of `transformers`' GPT-2 language model (a state dict) under the names and shapes of GPT above."""
    whole = {"wte.weight": "token.weight", "wpe.weight": "position.weight",
             "ln_f.weight": "norm.weight", "ln_f.bias": "norm.bias"}  # fmt: skip
    parts = {"ln_1": "norm1", "attn.c_attn": "attention.qkv", "attn.c_proj": "attention.out",
             "ln_2": "norm2", "mlp.c_fc": "up", "mlp.c_proj": "down"}  # fmt: skip
    ours = {}
    for name, weight in state.items():
        name = name.removeprefix("transformer.")
        if name in whole:
            ours[whole[name]] = weight
        elif name.startswith("h."):
            _, number, rest = name.split(".", 2)
            part, kind = rest.rsplit(".", 1)
            if part in parts:                                     # theirs are stored (inputs, outputs), ours turned
                ours[f"blocks.{number}.{parts[part]}.{kind}"] = weight.T if weight.ndim == 2 else weight
    return ours


def next_token_loss(model, tokens):
    """Eq. (10), nats, for tokens (N, T + 1): inputs are the first T of each row, targets the last T."""
    logits = model(tokens[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


@torch.no_grad()
def losses_by_place(model, tokens, rows=64):
    """-log p, nats, of every token: tokens (T,) are cut into n windows; returns (n, context), place by place."""
    windows = tokens.unfold(0, model.context + 1, model.context)
    parts = []
    for batch in windows.split(rows):
        logits = model(batch[:, :-1])
        parts.append(F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none").view(len(batch), -1))
    return torch.cat(parts)


@torch.no_grad()
def generate(model, tokens, num_new, generator=None, use_cache=True, **settings):
    """tokens (N, T) with num_new sampled ones after them; settings: those of `next_probabilities`.

    Beyond the context the model reads on with the last half of it (with a cache) or all of it (without).
    """
    cache = None
    for _ in range(num_new):
        if cache is not None and len(cache) < model.context:
            logits = model(tokens[:, -1:], cache)                  # one new place: eq. (13)
        else:
            cache = Cache() if use_cache else None
            full = tokens.shape[1] > model.context and use_cache
            logits = model(tokens[:, -(model.context // 2 if full else model.context) :], cache)
        p = next_probabilities(logits[:, -1], **settings)
        tokens = torch.cat([tokens, torch.multinomial(p, 1, generator=generator)], dim=1)
    return tokens


def look_inside(model, tokens, layer, head):
    """The stages of one head of attention, for tokens (T,): four times (T, T), then the mixed values (T, d)."""
    h = model.embed(tokens[None])
    for block in model.blocks[:layer]:
        h = block(h)
    block = model.blocks[layer]
    q, k, v = block.attention.split(block.norm1(h))[:, 0, head]
    score = q @ k.T
    scale = score / math.sqrt(q.shape[-1])
    mask = scale.masked_fill(~causal_mask(len(tokens)), float("-inf"))
    weights = mask.softmax(dim=-1)
    return {"score": score, "scale": scale, "mask": mask, "softmax": weights, "× V": weights @ v}
