"""Generated from notebooks/03b_gpt_beyond.ipynb: edit it there, then run `python -m aigc_helpers.notebooks export`."""

import collections
import re

import torch
import torch.nn as nn
import torch.nn.functional as F

from aigc_helpers.models.gpt import causal_mask, next_token_loss
from aigc_helpers.training import autocast


PIECES = re.compile(r" ?\w+| ?[^\w\s]+|\s+")              # a word or signs, with the space before; or white space


def glue(tokens, pair, new):
    """The list of tokens with every occurrence of the pair, from left to right, replaced by the token `new`."""
    out, k = [], 0
    while k < len(tokens):
        together = tuple(tokens[k : k + 2]) == pair
        out.append(new if together else tokens[k])
        k += 2 if together else 1
    return out


def learn_merges(text, num_merges):
    """The merges, a list of pairs of tokens, that eq. (1) takes from a text. Raises ValueError if pairs run out."""
    words = collections.Counter(PIECES.findall(text))
    spelled = {word: list(word.encode()) for word in words}
    counts, places = collections.Counter(), collections.defaultdict(set)          # how often a pair, and in which words

    def count(word, sign):
        for pair in zip(spelled[word], spelled[word][1:]):
            counts[pair] += sign * words[word]
            places[pair].add(word)

    for word in words:
        count(word, +1)
    merges = []
    for new in range(256, 256 + num_merges):
        pair = max(counts, key=lambda pair: (counts[pair], pair), default=None)   # eq. (1)
        if not counts[pair]:
            raise ValueError(f"only {len(merges)} of the {num_merges} merges can be learnt: no pair is left in this text")
        for word in list(places.pop(pair)):                                       # only these words change
            count(word, -1)
            spelled[word] = glue(spelled[word], pair, new)
            count(word, +1)
        del counts[pair]
        merges.append(pair)
    return merges


class BytePairs:
    """Tokens 0-255 are bytes (UTF-8), 256 + m is merge m (Sennrich 2015, arXiv 1508.07909; Radford 2019)."""

    def __init__(self, text, num_merges):
        self.merges = learn_merges(text, num_merges)
        self.bytes = [bytes([b]) for b in range(256)]
        for a, b in self.merges:
            self.bytes.append(self.bytes[a] + self.bytes[b])

    def encode(self, text, num_merges=None):
        """Token numbers, a list, of any text at all: each piece by the first `num_merges` merges, in their order."""
        rank = {pair: m for m, pair in enumerate(self.merges[:num_merges])}
        known = {}
        for piece in set(PIECES.findall(text)):
            tokens = list(piece.encode())
            while pairs := [pair for pair in zip(tokens, tokens[1:]) if pair in rank]:
                first = min(pairs, key=rank.get)
                tokens = glue(tokens, first, 256 + rank[first])
            known[piece] = tokens
        return [token for piece in PIECES.findall(text) for token in known[piece]]

    def decode(self, tokens):
        """The text of token numbers; bytes that are no UTF-8 become a replacement sign."""
        return b"".join(self.bytes[token] for token in tokens).decode("utf-8", errors="replace")


def rotate(x, start=0):
    """Rotary positions: x (N, heads, T, d) at places start, start + 1, ...; eq. (3), angles 10000^(-2i/d) a place."""
    T, d = x.shape[-2:]
    theta = 10000.0 ** (-torch.arange(0, d, 2, device=x.device) / d)
    angle = (start + torch.arange(T, device=x.device))[:, None] * theta
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class ModernBlock(nn.Module):
    """h (N, T, D) -> (N, T, D): eq. (8) of chapter 03, with each of its parts in today's form or GPT-2's."""

    def __init__(self, width, num_heads, rms=True, rotary=True, qk_norm=True, relu2=True, causal=True):
        super().__init__()
        self.num_heads, self.rotary, self.qk_norm = num_heads, rotary, qk_norm
        self.relu2, self.causal = relu2, causal
        self.norm1, self.norm2 = (nn.RMSNorm(width, eps=1e-6) if rms else nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        for layer in (self.qkv, self.up):
            nn.init.normal_(layer.weight, std=width**-0.5)
        for layer in (self.out, self.down):
            nn.init.zeros_(layer.weight)

    def attend(self, h, cache=None):
        N, T, D = h.shape
        q, k, v = self.qkv(h).view(N, T, 3, self.num_heads, D // self.num_heads).permute(2, 0, 3, 1, 4)
        if self.qk_norm:
            q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        if self.rotary:
            start = len(cache.kept[self][0][0, 0]) if cache is not None and self in cache.kept else 0
            q, k = rotate(q, start), rotate(k, start)
        if cache is not None:
            k, v = cache.extend(self, k, v)
        S = k.shape[2]
        mask = None if S == T else causal_mask(T, S).to(q.device)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.causal and S == T)
        return self.out(h.transpose(1, 2).flatten(2))

    def forward(self, h, cache=None):
        h = h + self.attend(self.norm1(h), cache)
        inner = self.up(self.norm2(h))
        return h + self.down(F.relu(inner).square() if self.relu2 else F.gelu(inner, approximate="tanh"))


def chunk_rows(tokens, vocab, rows, longest):
    """For n = 2 ... longest: the table row (N, T) of the chunk of n tokens that ends at each place of tokens (N, T)."""
    chunk, before, found = tokens, tokens, []
    for n in range(2, longest + 1):
        before = F.pad(before, (1, 0))[:, :-1]                     # the token n - 1 places back; 0 before the text
        chunk = chunk * vocab + before + 1                         # a number for the whole chunk of n
        mixed = chunk if vocab**n < rows else chunk * 2654435761 % 4294967291      # Knuth's multiplicative hash
        found.append(mixed % rows)
    return found


class Chunks(nn.Module):
    """Tokens (N, T) -> (N, T, D): the sum in eq. (4), over chunks of n = 2 ... longest, each n with a table of its own."""

    def __init__(self, vocab, width, longest, rows):
        super().__init__()
        self.vocab, self.rows, self.longest = vocab, rows, longest
        self.tables = nn.ModuleList(nn.Embedding(rows, width // 2) for _ in range(longest - 1))
        self.widen = nn.ModuleList(nn.Linear(width // 2, width, bias=False) for _ in range(longest - 1))
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, tokens):
        rows = chunk_rows(tokens, self.vocab, self.rows, self.longest)
        return sum(widen(table(row)) for table, widen, row in zip(self.tables, self.widen, rows))


class ModernGPT(nn.Module):
    """Tokens (N, T) -> logits (N, T, V): a GPT with today's parts, each of which can be switched off.

    rms, rotary, qk_norm, relu2: see `ModernBlock`; grams: up to how many tokens a chunk at the entrance has
    (1: no chunks), eq. (4). With a Cache, the tokens are those that follow what the cache has read.
    """

    def __init__(self, vocab, context=128, width=128, num_heads=4, num_blocks=4, grams=4, rows=32768, rotary=True, **parts):
        super().__init__()
        self.context, self.vocab, self.reach = context, vocab, grams - 1      # how far back chunks look
        self.token = nn.Embedding(vocab, width)
        self.position = None if rotary else nn.Embedding(context, width)
        self.chunks = Chunks(vocab, width, grams, rows) if grams > 1 else None
        self.blocks = nn.ModuleList(ModernBlock(width, num_heads, rotary=rotary, **parts) for _ in range(num_blocks))
        self.norm, self.head = nn.RMSNorm(width, eps=1e-6), nn.Linear(width, vocab, bias=False)
        nn.init.zeros_(self.head.weight)

    def embed(self, tokens, start=0):
        """The stream (N, T, D) at the entrance, eq. (4); for tokens (N, T) at places start, start + 1, ..."""
        h = self.token(tokens)
        if self.chunks is not None:
            h = h + self.chunks(tokens)
        if self.position is not None:
            h = h + self.position.weight[start : start + tokens.shape[1]]
        return F.rms_norm(h, h.shape[-1:])

    def read_out(self, h):
        """Logits (N, T, V) from the residual stream h (N, T, D)."""
        return self.head(self.norm(h)).float()

    def forward(self, tokens, cache=None):
        new, read = tokens.shape[1], len(cache) if cache is not None else 0
        if read:
            tokens = torch.cat([cache.tokens, tokens], dim=1)      # chunks reach back to what was read before
        h = self.embed(tokens, read + new - tokens.shape[1])[:, -new:]
        if cache is not None:
            cache.tokens = tokens[:, max(0, tokens.shape[1] - self.reach) :]
        for block in self.blocks:
            h = block(h, cache)
        return self.read_out(h)


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)                          # a, b, c: Jordan 2024


def orthogonal(G, rounds=5):
    """About U V' for a matrix G = U S V' of any shape: eq. (5). Every singular value ends near 1."""
    a, b, c = NEWTON_SCHULZ
    X = G if G.shape[0] <= G.shape[1] else G.T                     # the smaller of the two squares, X X'
    X = X / X.norm().clamp_min(1e-7)                               # no singular value above 1
    for _ in range(rounds):
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    return X if G.shape[0] <= G.shape[1] else X.T


class Muon(torch.optim.Optimizer):
    """Muon (Jordan 2024) with Nesterov momentum, for matrices, and kernels as (C_out, rest); bfloat16 only where that is quick."""

    def __init__(self, params, lr=0.02, momentum=0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for W in group["params"]:
                mean = self.state[W].setdefault("mean", torch.zeros_like(W))
                mean.lerp_(W.grad, 1 - group["momentum"])
                with autocast(W.device):
                    update = orthogonal(W.grad.lerp(mean, group["momentum"]).flatten(1))
                W.add_(update.reshape(W.shape), alpha=-group["lr"] * max(1.0, update.shape[0] / update.shape[1]) ** 0.5)


def optimizers(model, muon=True):
    """Muon for the matrices inside the blocks and AdamW for all else, or AdamW for everything."""
    inner = [weight for block in model.blocks for weight in block.parameters() if weight.ndim == 2]
    chosen = {id(weight) for weight in inner} if muon else set()
    rest = [weight for weight in model.parameters() if id(weight) not in chosen]
    found = [torch.optim.AdamW(rest, lr=5e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True)]
    return [*found, Muon(inner)] if muon else found


def set_rates(opts, step, num_steps):
    """Learning rates: up in 20 steps (or a fifth of a short run), level, and in the last 60 % of the run down to zero in a straight line."""
    factor = min(1.0, step / min(20, 0.2 * num_steps), (num_steps + 1 - step) / (0.6 * num_steps))
    for opt in opts:
        for group in opt.param_groups:
            group["lr"] = factor * group.setdefault("full", group["lr"])


def descend(loss, opts):
    """One step of all optimisers down the gradient of the loss."""
    for opt in opts:
        opt.zero_grad()
    loss.backward()
    for opt in opts:
        opt.step()


def train_step(model, opts, batch, device):
    """One step of all optimisers on tokens (N, T + 1); returns the loss."""
    with autocast(device):
        loss = next_token_loss(model, batch)
    descend(loss, opts)
    return loss


class Trunk(nn.Module):
    """A small model, causal or not, with what the goals need besides: a token for "hidden", and one logit a place."""

    def __init__(self, gpt):
        super().__init__()
        self.gpt, self.blocks, self.hidden = gpt, gpt.blocks, gpt.vocab - 1          # the last token number: hidden
        self.verdict = nn.Linear(gpt.token.embedding_dim, 1)

    def features(self, tokens):
        """(N, T, D) for tokens (N, T)."""
        h = self.gpt.embed(tokens)
        for block in self.gpt.blocks:
            h = block(h)
        return self.gpt.norm(h)

    def embed(self, tokens):
        """The stream (N, T, D) at the entrance."""
        return self.gpt.embed(tokens)

    def read_out(self, h):
        """All that it can be asked: logits and verdict (N, T, gpt.vocab + 1), from the stream h (N, T, D)."""
        return torch.cat([self.gpt.read_out(h), self.verdict(self.gpt.norm(h)).float()], dim=-1)


def next_goal(trunk, x, generator):
    """Loss, and the same as score, of the next-token goal on tokens x (N, T): eq. (6), left."""
    loss = next_token_loss(trunk.gpt, x)
    return loss, loss.item()


def masked_goal(trunk, x, generator):
    """Loss, and the same as score, of the masked-token goal: eq. (6), right; Devlin 2018, section 3.1."""
    hide = torch.rand(x.shape, generator=generator) < 0.15
    logits = trunk.gpt(torch.where(hide, trunk.hidden, x))
    loss = F.cross_entropy(logits[hide], x[hide])
    return loss, loss.item()


def sentence_goal(trunk, x, generator):
    """Loss and accuracy of "does the second half continue the first?", true for about half of the rows."""
    half, other = x.shape[1] // 2, x.roll(1, dims=0)
    true = torch.rand(len(x), 1, generator=generator) < 0.5
    joined = torch.cat([x[:, :half], torch.where(true, x[:, half:], other[:, half:])], dim=1)
    logits = trunk.verdict(trunk.features(joined)[:, half])                       # read where the halves meet
    return F.binary_cross_entropy_with_logits(logits, true.float()), ((logits > 0) == true).float().mean().item()


def replaced_goal(trunk, x, generator):
    """Loss of "was this letter swapped?", and how often a swapped letter gets the higher logit (1/2: by chance)."""
    swap = torch.rand(x.shape, generator=generator) < 0.15
    letters = x.flatten()[torch.randint(x.numel(), x.shape, generator=generator)]  # drawn as often as they occur
    swap = swap & (letters != x)
    logits = trunk.verdict(trunk.features(torch.where(swap, letters, x)))[..., 0]
    kept = logits[~swap].detach().sort().values
    ahead = (torch.searchsorted(kept, logits[swap].detach()).float().mean() / len(kept)).item()
    return F.binary_cross_entropy_with_logits(logits, swap.float()), ahead


class LoRA(nn.Module):
    """A linear layer, frozen, with a low-rank correction beside it: eq. (9). Switch it with `on`."""

    def __init__(self, layer, rank=16, scale=2.0):
        super().__init__()
        self.layer, self.scale, self.on = layer.requires_grad_(False), scale, True
        self.down = nn.Parameter(torch.randn(rank, layer.in_features) * layer.in_features**-0.5)
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, h):
        out = self.layer(h)
        return out + self.scale * (h @ self.down.T) @ self.up.T if self.on else out

    def merged(self):
        """One plain weight matrix (out, in) that does the same."""
        return self.layer.weight + self.scale * self.up @ self.down


def adapt(model, rank=16):
    """Freeze a ModernGPT, and put a LoRA beside every matrix of its blocks and its head; returns the LoRAs."""
    model.requires_grad_(False)
    for block in model.blocks:
        for name in ("qkv", "out", "up", "down"):
            setattr(block, name, LoRA(getattr(block, name), rank))
    model.head = LoRA(model.head, rank)
    return [module for module in model.modules() if isinstance(module, LoRA)]


def answer_loss(model, tokens, is_answer):
    """Eq. (8), nats, for tokens (N, T) and is_answer (N, T) bool."""
    logits = model(tokens[:, :-1])
    return F.cross_entropy(logits[is_answer[:, 1:]], tokens[:, 1:][is_answer[:, 1:]])


def load_gpt2(name="openai-community/gpt2", fetch=False):
    """[tokenizer, the library's model] of GPT-2 and ""; or None and the reason, where it cannot be had.

    name: a repository on the Hugging Face hub, or a folder. Without `fetch` only this machine is searched.
    """
    from transformers import AutoTokenizer, GPT2LMHeadModel

    try:
        found = [kind.from_pretrained(name, local_files_only=not fetch) for kind in (AutoTokenizer, GPT2LMHeadModel)]
    except Exception as problem:  # no network, no such file, a full disk: the lesson goes on without it
        advice = "" if fetch else " Set FETCH_GPT2 = True in the set-up to fetch it (548 MB)."
        return None, f"GPT-2's weights are not here ({type(problem).__name__}).{advice}"
    return found, ""
