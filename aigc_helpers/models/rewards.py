"""Generated from notebooks/03e_rewards.ipynb: edit it there, then run `python -m tools export`."""

import collections
import copy
import math

import torch
import torch.nn.functional as F

from aigc_helpers.arguments import require_whole
from aigc_helpers.models.gpt import generate
from aigc_helpers.tasks import ANSWER_LENGTH, END, draw_sums, encode_chat, final_part
from aigc_helpers.tasks import has_working, is_right, read_answer
from aigc_helpers.training import autocast


@torch.no_grad()
def sample_answers(model, questions, generator=None, temperature=1.0):
    """An answer to each of the questions, all of one length in characters.

    Returns tokens (N, T), question and answer; is_answer (N, T) bool; and the N texts. An answer
    that was not brought to its end within 44 characters gets "..." behind it, and is not right.
    """
    prompts = torch.tensor([encode_chat(question) for question in questions])
    end = torch.tensor([END])
    num = ANSWER_LENGTH + 1                                    # with the END
    with autocast(prompts.device):                             # faster, to about three digits
        tokens = generate(model, prompts, num, generator, end=end, temperature=temperature)
    written = tokens[:, prompts.shape[1] :]
    ends = (written == END).long()
    is_after_end = ends.cumsum(dim=1) - ends > 0               # an END stands before it
    is_answer = F.pad(~is_after_end, (prompts.shape[1], 0))
    texts = []
    for row in written:
        text, has_ended = read_answer(row)
        texts.append(text if has_ended else text + "...")
    return tokens, is_answer, texts


def sample_many(model, questions, num, generator, temperature=1.0):
    """`num` answers to each of the questions: a list of lists of texts."""
    rounds = []
    for _ in range(num):
        _, _, texts = sample_answers(model, questions, generator, temperature)
        rounds.append(texts)
    return [list(answers) for answers in zip(*rounds)]


def two_ways(questions, answers):
    """Rows of a table: answers with working, without, and all: their share, right ones, length."""
    pairs = [(q, text) for q, texts in zip(questions, answers) for text in texts]
    groups = {
        "with working": [pair for pair in pairs if has_working(pair[1])],
        "a bare digit": [pair for pair in pairs if not has_working(pair[1])],
        "all": pairs,
    }
    rows = {}
    for name, group in groups.items():
        num_right = sum(is_right(*pair) for pair in group)
        rows[name] = {"share of the answers": len(group) / len(pairs)}
        rows[name]["right"] = num_right / max(1, len(group))
        rows[name]["characters"] = sum(len(text) for _, text in group) / max(1, len(group))
    return rows


def answer_log_probs(model, tokens, is_answer):
    """log pi (N, T - 1) of every token of the answers after what stands before it; elsewhere 0."""
    with autocast(tokens.device):
        logits = model(tokens[:, :-1])
    log_p = logits.float().log_softmax(dim=-1)
    chosen = log_p.gather(-1, tokens[:, 1:, None])[..., 0]
    return chosen * is_answer[:, 1:]


def policy_loss(log_probs, advantages):
    """Eq. (4), from log pi (N, T) of tokens, 0 outside the answers, and advantages (N,)."""
    return -(advantages * log_probs.sum(dim=1)).mean()


def group_advantages(rewards, divide=False):
    """Eq. (5) for rewards (questions, G): what each answer got above the mean of its group.

    divide: by the standard deviation of the group, too, as GRPO does.
    """
    advantages = rewards - rewards.mean(dim=1, keepdim=True)
    if divide:
        spread = rewards.std(dim=1, correction=0, keepdim=True)
        advantages = advantages / (spread + 1e-6)
    return advantages


def pass_at_k(num_right, num_answers, k):
    """Eq. (6): the chance that k of num_answers answers, of which num_right are right, hold one."""
    require_whole("pass_at_k", "k", k, least=1, most=num_answers)
    num_wrong = num_answers - num_right
    return 1 - math.comb(num_wrong, k) / math.comb(num_answers, k)


def mean_pass(questions, answers, k):
    """pass@k, averaged over questions, from all answers (a list of texts for each)."""
    found = []
    for question, texts in zip(questions, answers):
        num_right = sum(is_right(question, text) for text in texts)
        found.append(pass_at_k(num_right, len(texts), k))
    return sum(found) / len(found)


def clipped_objective(ratio, advantages, clip=0.2):
    """What eq. (8) takes the mean of, for ratios and advantages of equal shape."""
    limited = ratio.clamp(1 - clip, 1 + clip)
    return torch.minimum(ratio * advantages, limited * advantages)


def kl_penalty(log_probs, reference, tokens, is_answer, beta):
    """Eq. (9): beta log(policy / reference) of each answer (N,), what its reward is reduced by."""
    with torch.no_grad():
        there = answer_log_probs(reference, tokens, is_answer)
    return beta * (log_probs.detach() - there).sum(dim=1)


def describe(asked, texts, group):
    """Shares of right answers and of working, and how many different answers a group has."""
    groups = [texts[k : k + group] for k in range(0, len(texts), group)]
    return {
        "right": sum(map(is_right, asked, texts)) / len(texts),
        "with working": sum(map(has_working, texts)) / len(texts),
        "different": sum(len(set(group)) for group in groups) / len(groups),
    }


def one_update(
    policy, opt, questions, generator, group=8, verifier=is_right, beta=0.0, reference=None,
    divide=False, bonus=0.0,
):
    """Section 4's step: `group` answers to each question, marked, compared, one step of `opt`.

    verifier(question, text) says whether an answer is rewarded; `bonus` is added for every token;
    beta: the price of leaving `reference`, eq. (9). Returns what the answers were like, a dict.
    """
    asked = [question for question in questions for _ in range(group)]
    tokens, is_answer, texts = sample_answers(policy, asked, generator)
    rewarded = torch.tensor([float(verifier(q, text)) for q, text in zip(asked, texts)])
    length = is_answer.sum(dim=1).float()
    log_probs = answer_log_probs(policy, tokens, is_answer)
    rewards = rewarded + bonus * length
    found = {"rewarded": rewards.mean().item(), "length": length.mean().item()}
    if beta:
        rewards = rewards - kl_penalty(log_probs, reference, tokens, is_answer, beta)
    rewards = rewards.view(-1, group)
    equal = (rewards == rewards[:, :1]).all(dim=1).float().mean()
    advantages = group_advantages(rewards, divide).flatten()
    loss = policy_loss(log_probs, advantages)
    opt.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    opt.step()
    found["zero variance"] = equal.item()
    return found | describe(asked, texts, group)


def reinforce(start, num_updates, seed=0, rate=2e-4, num_questions=16, **settings):
    """A policy trained on rewards from a copy of `start`, and what each update was like, a list."""
    policy = copy.deepcopy(start).requires_grad_(True)
    opt = torch.optim.AdamW(policy.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    random = torch.Generator().manual_seed(seed)
    log = []
    for _ in range(num_updates):
        questions = draw_sums(num_questions, random)
        found = one_update(policy, opt, questions, random, reference=start, **settings)
        log.append(found)
    return policy.eval().requires_grad_(False), log


def majority(question, texts):
    """The last digit that most of the answers end in; of equal counts, the one met first."""
    finals = [final_part(question, text) for text in texts]
    return collections.Counter(finals).most_common(1)[0][0]
