"""Generated from notebooks/03b_gpt_beyond.ipynb: edit it there, then run `python -m tools export`."""

import collections
import re

import torch
import torch.nn as nn
import torch.nn.functional as F

from aigc_helpers.arguments import require_number, require_whole
from aigc_helpers.models.gpt import causal_mask, next_token_loss
from aigc_helpers.training import autocast


PIECES = re.compile(r" ?\w+| ?[^\w\s]+|\s+")  # words, signs, white space


def spell(piece):
    """The bytes (UTF-8) of a piece of text, a list of tokens. ValueError for half a character."""
    try:
        return list(piece.encode())
    except UnicodeEncodeError:  # one of the two halves that UTF-16 makes of a rare character
        raise ValueError(f"spell: {piece!r} has half a character in it: leave it out") from None


def glue(tokens, pair, new):
    """The list of tokens with every occurrence of the pair, from the left, replaced by `new`."""
    out = []
    k = 0
    while k < len(tokens):
        together = tuple(tokens[k : k + 2]) == pair
        out.append(new if together else tokens[k])
        k += 2 if together else 1
    return out


def learn_merges(text, num_merges):
    """The merges, a list of pairs of tokens, that eq. (1) takes from a text.

    Raises ValueError if pairs run out.
    """
    require_whole("learn_merges", "num_merges", num_merges, least=0)
    words = collections.Counter(PIECES.findall(text))
    spelled = {word: spell(word) for word in words}
    counts = collections.Counter()  # how often a pair stands in the text
    places = collections.defaultdict(set)  # and in which words

    def count(word, sign):
        for pair in zip(spelled[word], spelled[word][1:]):
            counts[pair] += sign * words[word]
            places[pair].add(word)

    for word in words:
        count(word, +1)
    merges = []
    for new in range(256, 256 + num_merges):
        pair = max(counts, key=lambda pair: (counts[pair], pair), default=None)  # eq. (1)
        if not counts[pair]:
            found = f"only {len(merges)} of the {num_merges} merges can be learnt"
            raise ValueError(f"{found}: no pair is left in this text")
        for word in list(places.pop(pair)):  # only these words change
            count(word, -1)
            spelled[word] = glue(spelled[word], pair, new)
            count(word, +1)
        del counts[pair]
        merges.append(pair)
    return merges


class BytePairs:
    """Byte-pair encoding (Sennrich 2015, arXiv 1508.07909) of bytes (Radford 2019).

    Tokens 0-255 are bytes (UTF-8), 256 + m is merge m; len() of it is the size of the vocabulary.
    """

    def __init__(self, text, num_merges):
        self.merges = learn_merges(text, num_merges)
        self.bytes = [bytes([b]) for b in range(256)]
        for a, b in self.merges:
            self.bytes.append(self.bytes[a] + self.bytes[b])

    def __len__(self):
        return len(self.bytes)

    def encode(self, text, num_merges=None):
        """Token numbers, a list, of any text: by the first `num_merges` merges, in their order.

        None: by all of them; 0: bytes. Raises ValueError if fewer have been learnt.
        """
        learnt = len(self.merges)
        num_merges = learnt if num_merges is None else num_merges
        require_whole("encode", "num_merges", num_merges, least=0, most=learnt)
        rank = {pair: m for m, pair in enumerate(self.merges[:num_merges])}
        pieces = PIECES.findall(text)
        known = {piece: self._merge(spell(piece), rank) for piece in set(pieces)}
        return [token for piece in pieces for token in known[piece]]

    def _merge(self, tokens, rank):
        """One piece: of the pairs in it, the one that was learnt first is glued first."""
        while pairs := [pair for pair in zip(tokens, tokens[1:]) if pair in rank]:
            first = min(pairs, key=rank.get)
            tokens = glue(tokens, first, 256 + rank[first])
        return tokens

    def decode(self, tokens):
        """The text of token numbers; bytes that are no UTF-8 become a replacement sign."""
        last = len(self) - 1
        numbers = [require_whole("decode", "a token", token, 0, last) for token in tokens]
        spelling = b"".join(self.bytes[number] for number in numbers)
        return spelling.decode("utf-8", errors="replace")


def rotate(x, start=0):
    """Rotary positions, eq. (3): x (N, heads, T, d) at places start, start + 1, ...

    The angles are 10000^(-2i/d) a place, i = 0 ... d/2 - 1. Raises ValueError for an odd d.
    """
    T, d = x.shape[-2:]
    if d % 2:
        raise ValueError(f"rotate: the width of a head must be even, to be cut into pairs, got {d}")
    theta = 10000.0 ** (-torch.arange(0, d, 2, device=x.device) / d)
    angle = (start + torch.arange(T, device=x.device))[:, None] * theta
    cos = angle.cos().to(x.dtype)
    sin = angle.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class ModernBlock(nn.Module):
    """h (N, T, D) -> (N, T, D): eq. (8) of chapter 03, each part in today's form or GPT-2's.

    Raises ValueError for a width that cannot be cut into so many heads (of even width, if rotary).
    """

    def __init__(
        self, width, num_heads, rms=True, rotary=True, qk_norm=True, relu2=True, causal=True
    ):
        super().__init__()
        require_whole("ModernBlock", "num_heads", num_heads, least=1)
        if width % num_heads or (rotary and width // num_heads % 2):
            heads = f"{num_heads} equal heads" + (" of an even width" if rotary else "")
            raise ValueError(f"ModernBlock: width {width} cannot be cut into {heads}")
        self.num_heads = num_heads
        self.rotary = rotary
        self.qk_norm = qk_norm
        self.relu2 = relu2
        self.causal = causal
        self.norm1 = nn.RMSNorm(width, eps=1e-6) if rms else nn.LayerNorm(width)
        self.norm2 = nn.RMSNorm(width, eps=1e-6) if rms else nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        for layer in (self.qkv, self.up):
            nn.init.normal_(layer.weight, std=width**-0.5)
        for layer in (self.out, self.down):
            nn.init.zeros_(layer.weight)

    def attend(self, h, cache=None):
        N, T, D = h.shape
        qkv = self.qkv(h).view(N, T, 3, self.num_heads, D // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (N, heads, T, d) each
        if self.qk_norm:
            q = F.rms_norm(q, q.shape[-1:])
            k = F.rms_norm(k, k.shape[-1:])
        if self.rotary:
            is_later = cache is not None and self in cache.kept
            start = cache.kept[self][0].shape[2] if is_later else 0
            q = rotate(q, start)
            k = rotate(k, start)
        if cache is not None:
            k, v = cache.extend(self, k, v)
        S = k.shape[2]
        mask = None if S == T else causal_mask(T, S).to(q.device)
        is_causal = self.causal and S == T
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal)
        return self.out(h.transpose(1, 2).flatten(2))

    def forward(self, h, cache=None):
        h = h + self.attend(self.norm1(h), cache)
        inner = self.up(self.norm2(h))
        inner = F.relu(inner).square() if self.relu2 else F.gelu(inner, approximate="tanh")
        return h + self.down(inner)


def chunk_rows(tokens, vocab, rows, longest):
    """Where the tables are read: for n = 2 ... longest, the row (N, T) of the chunk of n tokens
    that ends at each place of tokens (N, T).
    """
    chunk = tokens
    before = tokens
    found = []
    for n in range(2, longest + 1):
        before = F.pad(before, (1, 0))[:, :-1]  # the token n - 1 places back; 0 before the text
        chunk = chunk * vocab + before + 1  # a number for the whole chunk of n
        mixed = chunk if vocab**n < rows else chunk * 2654435761 % 4294967291  # scatter: a hash
        found.append(mixed % rows)
    return found


class Chunks(nn.Module):
    """Tokens (N, T) -> (N, T, D): the sum in eq. (4), over chunks of n = 2 ... longest.

    Each n has a table of its own, of so many rows.
    """

    def __init__(self, vocab, width, longest, rows):
        super().__init__()
        require_whole("Chunks", "longest", longest, least=2)
        require_whole("Chunks", "rows", rows, least=1)
        self.vocab = vocab
        self.rows = rows
        self.longest = longest
        self.tables = nn.ModuleList(nn.Embedding(rows, width // 2) for _ in range(longest - 1))
        self.widen = nn.ModuleList(
            nn.Linear(width // 2, width, bias=False) for _ in range(longest - 1)
        )
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, tokens):
        h = 0
        rows = chunk_rows(tokens, self.vocab, self.rows, self.longest)
        for table, widen, row in zip(self.tables, self.widen, rows):
            h = h + widen(table(row))
        return h


class ModernGPT(nn.Module):
    """Tokens (N, T) -> logits (N, T, V): a GPT with today's parts, each of which has a switch.

    grams: up to how many tokens a chunk at the entrance has (1: no chunks), eq. (4); rows: of each
    table of chunks. parts: rms, qk_norm, relu2, causal, see `ModernBlock`.
    With a Cache, the tokens are those that follow what the cache has read.
    Raises ValueError beyond the context, and for no tokens at all.
    """

    def __init__(
        self,
        vocab,
        context=128,
        width=128,
        num_heads=4,
        num_blocks=4,
        grams=4,
        rows=32768,
        rotary=True,
        **parts,
    ):
        super().__init__()
        require_whole("ModernGPT", "context", context, least=1)
        require_whole("ModernGPT", "grams", grams, least=1)
        self.context = context
        self.vocab = vocab
        self.reach = grams - 1  # how far back chunks look
        self.token = nn.Embedding(vocab, width)
        self.position = None if rotary else nn.Embedding(context, width)
        self.chunks = Chunks(vocab, width, grams, rows) if grams > 1 else None
        self.blocks = nn.ModuleList(
            ModernBlock(width, num_heads, rotary=rotary, **parts) for _ in range(num_blocks)
        )
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.head = nn.Linear(width, vocab, bias=False)
        nn.init.zeros_(self.head.weight)

    def embed(self, tokens, start=0):
        """The stream (N, T, D) at the entrance, eq. (4); tokens (N, T) at places start, ..."""
        end = start + tokens.shape[1]
        if tokens.shape[1] == 0:
            raise ValueError("there are no tokens: give at least one, say that of a new line")
        if end > self.context:
            message = f"{end} tokens are more than the context of {self.context} holds"
            raise ValueError(f"{message}: give the last ones only")
        h = self.token(tokens)
        if self.chunks is not None:
            h = h + self.chunks(tokens)
        if self.position is not None:
            h = h + self.position.weight[start:end]
        return F.rms_norm(h, h.shape[-1:])

    def read_out(self, h):
        """Logits (N, T, V) from the residual stream h (N, T, D)."""
        return self.head(self.norm(h)).float()

    def forward(self, tokens, cache=None):
        new = tokens.shape[1]
        read = len(cache) if cache is not None else 0
        if read and new:
            tokens = torch.cat([cache.tokens, tokens], dim=1)  # chunks reach back to what was read
        h = self.embed(tokens, read + new - tokens.shape[1])[:, -new:]
        if cache is not None:
            cache.tokens = tokens[:, max(0, tokens.shape[1] - self.reach) :]
        for block in self.blocks:
            h = block(h, cache)
        return self.read_out(h)


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a, b, c: Jordan 2024


def orthogonal(G, rounds=5):
    """About U V' for a matrix G = U S V' of any shape: eq. (5). All singular values end near 1."""
    if G.ndim != 2:
        raise ValueError(f"orthogonal: G must be a matrix, got the shape {tuple(G.shape)}")
    a, b, c = NEWTON_SCHULZ
    X = G if G.shape[0] <= G.shape[1] else G.T  # the smaller of the two squares, X X'
    X = X / X.norm().clamp_min(1e-7)  # no singular value above 1
    for _ in range(rounds):
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    return X if G.shape[0] <= G.shape[1] else X.T


class Muon(torch.optim.Optimizer):
    """Muon (Jordan 2024) with Nesterov momentum, for matrices, and kernels as (C_out, rest).

    Multiplies in bfloat16 only where that is quick. Weights without a gradient stay as they are.
    """

    def __init__(self, params, lr=0.02, momentum=0.95):
        require_number("Muon", "lr", lr, least=0)
        require_number("Muon", "momentum", momentum, least=0, most=1)
        super().__init__(params, {"lr": lr, "momentum": momentum})
        shapes = [tuple(W.shape) for group in self.param_groups for W in group["params"]]
        flat = [shape for shape in shapes if len(shape) < 2]
        if flat:
            raise ValueError(f"Muon: is for matrices; give weights like {flat[0]} to AdamW")

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for W in group["params"]:
                if W.grad is None:
                    continue
                mean = self.state[W].setdefault("mean", torch.zeros_like(W))
                mean.lerp_(W.grad, 1 - group["momentum"])
                with autocast(W.device):
                    ahead = W.grad.lerp(mean, group["momentum"])
                    update = orthogonal(ahead.flatten(1))
                rows, columns = update.shape
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                W.add_(update.reshape(W.shape), alpha=-rate)


def optimizers(model, muon=True):
    """Muon for the matrices inside the blocks and AdamW for all else, or AdamW for everything.

    Frozen weights get none. Raises ValueError if all are frozen.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if not weights:
        raise ValueError("optimizers: every weight of the model is frozen: there is none to train")
    inside = {id(weight) for block in model.blocks for weight in block.parameters()}
    inner = [weight for weight in weights if muon and id(weight) in inside and weight.ndim == 2]
    chosen = {id(weight) for weight in inner}
    rest = [weight for weight in weights if id(weight) not in chosen]
    found = []
    if rest:
        adamw = torch.optim.AdamW(rest, lr=5e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        found.append(adamw)
    if inner:
        found.append(Muon(inner))
    return found


def set_rates(opts, step, num_steps):
    """Learning rates for step 1 ... num_steps: up, level, and down to zero in a straight line.

    Up in 20 steps (or a fifth of a short run), down in the last 60 % of the run.
    """
    require_whole("set_rates", "num_steps", num_steps, least=1)
    require_whole("set_rates", "step", step, least=1, most=num_steps)
    up = step / min(20, 0.2 * num_steps)
    down = (num_steps + 1 - step) / (0.6 * num_steps)
    for opt in opts:
        for group in opt.param_groups:
            group["lr"] = min(1.0, up, down) * group.setdefault("full", group["lr"])


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
    """A small model, causal or not, with what the goals need besides.

    That is a token for "hidden", the last of its vocabulary, and one logit a place.
    """

    def __init__(self, gpt):
        super().__init__()
        self.gpt = gpt
        self.blocks = gpt.blocks
        self.hidden = gpt.vocab - 1
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
        """All that it can be asked: logits and verdict (N, T, gpt.vocab + 1), from h (N, T, D)."""
        return torch.cat([self.gpt.read_out(h), self.verdict(self.gpt.norm(h)).float()], dim=-1)


def next_goal(trunk, x, generator):
    """Loss, and the same as score, of the next-token goal on tokens x (N, T): eq. (6), left."""
    loss = next_token_loss(trunk.gpt, x)
    return loss, loss.item()


def masked_goal(trunk, x, generator):
    """Loss, and the same as score, of the masked-token goal: eq. (6), right.

    Devlin 2018, section 3.1. At least one token is hidden.
    """
    hide = torch.rand(x.shape, generator=generator) < 0.15
    if not hide.any():  # with very few tokens
        hide[:, -1] = True
    logits = trunk.gpt(torch.where(hide, trunk.hidden, x))
    loss = F.cross_entropy(logits[hide], x[hide])
    return loss, loss.item()


def sentence_goal(trunk, x, generator):
    """Loss and accuracy of "does the second half continue the first?"

    True for about half of the rows of x (N, T); the others get another row's second half.
    """
    if len(x) < 2 or x.shape[1] < 2:
        shape = tuple(x.shape)
        raise ValueError(f"sentence_goal: needs two rows of two tokens, or more; got {shape}")
    half = x.shape[1] // 2
    other = x.roll(1, dims=0)
    true = torch.rand(len(x), 1, generator=generator) < 0.5
    joined = torch.cat([x[:, :half], torch.where(true, x[:, half:], other[:, half:])], dim=1)
    logits = trunk.verdict(trunk.features(joined)[:, half])  # read where the halves meet
    loss = F.binary_cross_entropy_with_logits(logits, true.float())
    return loss, ((logits > 0) == true).float().mean().item()


def replaced_goal(trunk, x, generator):
    """Loss of "was this letter swapped?", and how often a swapped letter gets the higher logit.

    By chance that is 1/2, which is also returned where nothing, or everything, was swapped.
    """
    swap = torch.rand(x.shape, generator=generator) < 0.15
    drawn = torch.randint(x.numel(), x.shape, generator=generator)
    letters = x.flatten()[drawn]  # as often as they occur
    swap = swap & (letters != x)
    logits = trunk.verdict(trunk.features(torch.where(swap, letters, x)))[..., 0]
    loss = F.binary_cross_entropy_with_logits(logits, swap.float())
    if not swap.any() or swap.all():
        return loss, 0.5
    kept = logits[~swap].detach().sort().values
    rank = torch.searchsorted(kept, logits[swap].detach()).float().mean()
    return loss, (rank / len(kept)).item()


class LoRA(nn.Module):
    """A linear layer, frozen, with a low-rank correction beside it: eq. (9). `on` switches it."""

    def __init__(self, layer, rank=16, scale=2.0):
        super().__init__()
        require_whole("LoRA", "rank", rank, least=1)
        require_number("LoRA", "scale", scale)
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"LoRA: needs a linear layer, got {type(layer).__name__}")
        self.layer = layer.requires_grad_(False)
        self.scale = scale
        self.on = True
        down = torch.randn(rank, layer.in_features) * layer.in_features**-0.5
        self.down = nn.Parameter(down.to(layer.weight))
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank).to(layer.weight))

    def forward(self, h):
        out = self.layer(h)
        return out + self.scale * (h @ self.down.T) @ self.up.T if self.on else out

    def merged(self):
        """One plain weight matrix (out, in) that does the same."""
        return self.layer.weight + self.scale * self.up @ self.down


def adapt(model, rank=16):
    """Freeze a ModernGPT, with a LoRA beside every matrix of its blocks and its head.

    Returns the LoRAs: what is left to train. A model that has them already keeps them as they are.
    Raises ValueError if they have another rank.
    """
    owners = [(block, name) for block in model.blocks for name in ("qkv", "out", "up", "down")]
    owners.append((model, "head"))
    loras = []
    for owner, name in owners:
        layer = getattr(owner, name)
        lora = layer if isinstance(layer, LoRA) else LoRA(layer, rank)
        if len(lora.down) != rank:
            raise ValueError(f"adapt: the model has LoRAs of rank {len(lora.down)}, not {rank}")
        loras.append(lora)
    model.requires_grad_(False)
    for (owner, name), lora in zip(owners, loras):
        setattr(owner, name, lora)
        lora.down.requires_grad_(True)
        lora.up.requires_grad_(True)
    return loras


def answer_loss(model, tokens, is_answer):
    """Eq. (8), nats, for tokens (N, T) and is_answer (N, T) bool.

    The first token of a row stands after nothing, and cannot be asked for.
    """
    asked = is_answer[:, 1:]
    if not asked.any():
        raise ValueError("answer_loss: is_answer marks no token after the first of a row")
    logits = model(tokens[:, :-1])
    return F.cross_entropy(logits[asked], tokens[:, 1:][asked])


def load_gpt2(name="openai-community/gpt2", fetch=False):
    """[tokenizer, the library's model] of GPT-2 and ""; or None and why it cannot be had.

    name: a repository on the Hugging Face hub, or a folder. Without `fetch` only this machine is
    searched.
    """
    from transformers import AutoTokenizer, GPT2LMHeadModel

    kinds = (AutoTokenizer, GPT2LMHeadModel)
    try:
        found = [kind.from_pretrained(name, local_files_only=not fetch) for kind in kinds]
    except Exception as problem:  # no network, no such file, a full disk: the lesson goes on
        advice = "" if fetch else " Set FETCH_GPT2 = True in the set-up to fetch it (548 MB)."
        return None, f"GPT-2's weights are not here ({type(problem).__name__}).{advice}"
    return found, ""
