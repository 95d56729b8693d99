"""Generated from notebooks/03d_assistant.ipynb: edit it there, then run `python -m tools export`."""

import torch
import torch.nn as nn
import torch.nn.functional as F

from aigc_helpers import tasks
from aigc_helpers.arguments import require_number, require_whole
from aigc_helpers.models.gpt import generate, next_token_loss
from aigc_helpers.models.gpt_beyond import ModernGPT, PreviousTokens, make_optimizers, set_rates
from aigc_helpers.training import autocast


def answer_loss(model, tokens, is_answer):
    """Eq. (1), nats, for tokens (N, T) and is_answer (N, T) bool.

    The first token of a row stands after nothing, and cannot be asked for.
    """
    asked = is_answer[:, 1:]
    if not asked.any():
        raise ValueError("answer_loss: is_answer marks no token after the first of a row")
    logits = model(tokens[:, :-1])
    return F.cross_entropy(logits[asked], tokens[:, 1:][asked])


def make_gpt():
    """A network for the alphabet of `tasks`, untrained: 0.84 million weights."""
    model = ModernGPT(tasks.VOCAB, tasks.CONTEXT, extra=PreviousTokens(tasks.VOCAB, 128))
    for table in model.extra.tables:
        nn.init.normal_(table.weight, std=0.3)                 # smaller than its own
    return model


@torch.no_grad()
def ask(model, questions, generator=None, temperature=0.0):
    """The answers, a list of texts. One that never ended gets a sign behind it: it is not right."""
    device = next(model.parameters()).device
    answers = [""] * len(questions)
    for length, places in tasks.group_by_length(questions).items():
        prompts = torch.tensor([tasks.encode_chat(questions[place]) for place in places])
        with autocast(device):
            written = generate(
                model,
                prompts.to(device),
                tasks.ANSWER_LENGTH + 1,
                generator,
                temperature=temperature,
                end=torch.tensor([tasks.END]),
            )
        for place, row in zip(places, written[:, length + 2 :], strict=True):
            text, has_ended = tasks.read_answer(row)
            answers[place] = text if has_ended else text + "…"
    return answers


def shows_working(answer):
    """Whether an answer to a sum is steps such as 7+5=12, and then "in" and a digit."""
    *steps, last = answer.split(",")
    well_formed = all(map(tasks.STEP.fullmatch, steps))
    return bool(steps) and well_formed and last[:3] == "in " and last[3:] in list("0123456789")


def share_right(questions, answers):
    """The share of the answers that the verifier finds right."""
    marks = [tasks.is_right(*pair) for pair in zip(questions, answers, strict=True)]
    return sum(marks) / len(marks)


TURNS = ("sums", "texts", "sums", "scenes")
BATCH = 32  # chats a step


def tune(model, chats, num_steps, seed=0, plays=None, opts=None):
    """The loop above as a function, in place, with chats drawn at random.

    plays: None, or windows (n, T + 1) of the old text, of which 4 are replayed at each step.
    opts: the optimisers; None: those of the loop above.
    """
    opts = make_optimizers(model) if opts is None else opts
    random = torch.Generator().manual_seed(seed)
    random_plays = torch.Generator().manual_seed(seed)         # the same chats without plays
    for step in range(1, num_steps + 1):
        tokens, is_answer = chats[TURNS[step % len(TURNS)]]
        rows = torch.randint(len(tokens), (BATCH,), generator=random)
        set_rates(opts, step, num_steps)
        with autocast(tokens.device):
            loss = answer_loss(model, tokens[rows], is_answer[rows])
            if plays is not None:
                some = torch.randint(len(plays), (4,), generator=random_plays)
                loss = loss + next_token_loss(model, plays[some])
        for opt in opts:
            opt.zero_grad()
        loss.backward()
        for opt in opts:
            opt.step()
    return model.eval()


def pair_loss(chosen, rejected):
    """-log of eq. (3), nats, the mean over pairs, from rewards (N,) of chosen and rejected."""
    return -F.logsigmoid(chosen - rejected).mean()         # log σ(u), safe for large |u|


def best_policy(reference, reward, beta):
    """Eq. (5): probabilities (..., n) from those of the reference and the rewards (..., n)."""
    require_number("best_policy", "beta", beta, above=0)
    return (reference.log() + reward / beta).softmax(dim=-1)


def objective(policy, reference, reward, beta):
    """Eq. (4) for probabilities (n,) and rewards (n,): one number."""
    kl = (policy * (policy.log() - reference.log())).sum()
    return (policy * reward).sum() - beta * kl


def dpo_loss(chosen, rejected, chosen_ref, rejected_ref, beta):
    """Eq. (6), nats, the mean over pairs, from log-probabilities (N,) of whole answers."""
    require_number("dpo_loss", "beta", beta, above=0)
    margin = (chosen - chosen_ref) - (rejected - rejected_ref)
    return -F.logsigmoid(beta * margin).mean()


def answer_log_prob(model, tokens, is_answer):
    """log π(y|x), nats (N,): a sum over each row's answer, of tokens (N, T), is_answer (N, T)."""
    log_p = model(tokens[:, :-1]).log_softmax(dim=-1)
    of_tokens = log_p.gather(-1, tokens[:, 1:, None])[..., 0]
    return (of_tokens * is_answer[:, 1:]).sum(dim=1)


class LoRA(nn.Module):
    """A linear layer, frozen, with a low-rank correction beside it: eq. (8). `on` switches it."""

    def __init__(self, layer, rank=8, scale=2.0):
        super().__init__()
        require_whole("LoRA", "rank", rank, least=1)
        require_number("LoRA", "scale", scale)
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"LoRA: needs a linear layer, got {type(layer).__name__}")
        self.layer = layer.requires_grad_(False)
        self.scale = scale
        self.on = True
        down = torch.randn(rank, layer.in_features) * layer.in_features**-0.5
        self.down = nn.Parameter(down.to(layer.weight))        # A
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank).to(layer.weight))     # B

    def forward(self, h):
        out = self.layer(h)
        return out + self.scale * (h @ self.down.T) @ self.up.T if self.on else out

    def merged(self):
        """One plain weight matrix (out, in) that does the same."""
        return self.layer.weight + self.scale * self.up @ self.down


def adapt(model, rank=8):
    """Freeze a GPT, with a LoRA in place of every linear layer; returns them, to be trained.

    A model that has them already keeps them. Raises ValueError if they have another rank.
    """
    for part in list(model.modules()):
        for name, layer in list(part.named_children()):
            if isinstance(layer, nn.Linear) and not isinstance(part, LoRA):
                setattr(part, name, LoRA(layer, rank))
    loras = [part for part in model.modules() if isinstance(part, LoRA)]
    for lora in loras:
        if len(lora.down) != rank:
            raise ValueError(f"adapt: the model has LoRAs of rank {len(lora.down)}, not {rank}")
    model.requires_grad_(False)
    for lora in loras:
        lora.down.requires_grad_(True)
        lora.up.requires_grad_(True)
    return loras


@torch.no_grad()
def reference_log_prob(model, loras, tokens, is_answer):
    """The same of the model before its LoRAs: they are switched off for the moment."""
    for lora in loras:
        lora.on = False
    log_p = answer_log_prob(model, tokens, is_answer)
    for lora in loras:
        lora.on = True
    return log_p


PAIRS = 24  # a step


def draw_pairs(questions, prefer_working, generator):
    """Chats of PAIRS questions, those with the chosen answers first, then those with the others."""
    picked = torch.randint(len(questions), (PAIRS,), generator=generator).tolist()
    asked = [questions[k] for k in picked]
    chosen = [tasks.answer_sum(question, prefer_working) for question in asked]
    rejected = [tasks.answer_sum(question, not prefer_working) for question in asked]
    return tasks.encode_chats(2 * asked, chosen + rejected)


def dpo(chosen, rejected, chosen_ref, rejected_ref):
    """Eq. (6) with the β of this section, 0.5."""
    return dpo_loss(chosen, rejected, chosen_ref, rejected_ref, beta=0.5)


def train_on_pairs(
    model, questions, prefer_working, num_steps, loss_of=dpo, rate=5e-4, seed=0
):
    """Train LoRAs on pairs, in place; returns by step (6), and both answers' log π - log π_ref."""
    loras = adapt(model)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    opt = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    random = torch.Generator().manual_seed(seed)
    raised = {"chosen": [], "rejected": [], "loss": []}
    for _ in range(num_steps):
        tokens, is_answer = draw_pairs(questions, prefer_working, random)
        tokens = tokens.to(trained[0].device)
        is_answer = is_answer.to(trained[0].device)
        ref = reference_log_prob(model, loras, tokens, is_answer)
        log_p = answer_log_prob(model, tokens, is_answer)
        both = log_p[:PAIRS], log_p[PAIRS:], ref[:PAIRS], ref[PAIRS:]
        loss = loss_of(*both)  # eq. (6)
        opt.zero_grad()
        loss.backward()
        opt.step()
        raised["chosen"].append((log_p - ref)[:PAIRS].mean().item())
        raised["rejected"].append((log_p - ref)[PAIRS:].mean().item())
        raised["loss"].append(dpo(*(part.detach() for part in both)).item())
    return raised
