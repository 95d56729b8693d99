"""Tasks whose answers can be checked: last digits of sums, questions about a short text, and who speaks in a scene.

    questions = draw_sums(1000, generator)              # "7+5+8+6+9+4 ends in?", ...
    answers = [answer_sum(question, working=True) for question in questions]
    tokens, is_answer = encode_chats(questions, answers)        # (N, T) whole numbers, (N, T) bool
    right_answer("7+5+8 ends in?")                      # "in 0", worked out from the question itself
    is_right("7+5+8 ends in?", "7+5=12,2+8=10,in 0")    # True: only the end counts

A question is one line of text, and says by itself which of the three tasks it is. Its right answer is
computed from the question, never stored beside it, so that what a person types can be marked as well.

A chat is a list of tokens: `USER`, the question, `ASSISTANT`, the answer, `END`. These three are special:
they stand for no characters, and no text that anybody types is encoded to them.
"""

from __future__ import annotations

import re

import torch

from aigc_helpers.arguments import require_number, require_whole

# ---------------------------------------------------------------- characters and chats, as tokens

ALPHABET = "\n" + "".join(chr(code) for code in range(32, 127))  # what a keyboard has: 96 characters
SPECIAL = ("<user>", "<assistant>", "<end>")
USER, ASSISTANT, END = range(len(ALPHABET), len(ALPHABET) + len(SPECIAL))
VOCAB = len(ALPHABET) + len(SPECIAL)
CONTEXT = 128  # tokens of a whole chat
QUESTION_LENGTH = 80  # characters, at most
ANSWER_LENGTH = 44  # characters, at most; with the three special tokens: 127

_NUMBERS = {character: number for number, character in enumerate(ALPHABET)}


def encode(text) -> list[int]:
    """Token numbers of a text; one character is one token. Raises ValueError for characters that have none."""
    unknown = "".join(sorted(set(text) - set(ALPHABET)))
    if unknown:
        raise ValueError(f"encode: these characters have no token: {unknown[:20]!r}; use read_question")
    return [_NUMBERS[character] for character in text]


def known_text(text) -> str:
    """The text without the characters that have no token."""
    return "".join(character for character in text if character in _NUMBERS)


def decode(tokens, special=True) -> str:
    """The text of token numbers; special tokens as "<user>" and so on or, if not `special`, as nothing."""
    names = (*ALPHABET, *(SPECIAL if special else ("",) * len(SPECIAL)))
    return "".join(names[require_whole("decode", "a token", token, 0, VOCAB - 1)] for token in tokens)


def encode_chat(question, answer=None) -> list[int]:
    """A chat as tokens: with the answer and `END`, or up to `ASSISTANT`, after which a model is to answer."""
    tokens = [USER, *encode(question), ASSISTANT]
    return tokens if answer is None else [*tokens, *encode(answer), END]


def encode_chats(questions, answers):
    """Chats of equal or different lengths: tokens (N, T), and which of them are the answer (N, T) bool.

    `END` belongs to the answer: a model must learn to write it. Behind it a row is filled up with more of
    it, which is no part of the answer. Raises ValueError for unequal numbers of questions and answers.
    """
    chats = [encode_chat(*pair) for pair in zip(questions, answers, strict=True)]
    if not chats:
        raise ValueError("encode_chats: there are no chats to encode")
    tokens = torch.full((len(chats), max(map(len, chats))), END)
    is_answer = torch.zeros(tokens.shape, dtype=torch.bool)
    for row, (chat, question) in enumerate(zip(chats, questions, strict=True)):
        tokens[row, : len(chat)] = torch.tensor(chat)
        is_answer[row, len(question) + 2 : len(chat)] = True
    return tokens, is_answer


def group_by_length(questions) -> dict[int, list[int]]:
    """The places of the questions of each length: what can be asked side by side without filling up."""
    groups = {}
    for place, question in enumerate(questions):
        groups.setdefault(len(question), []).append(place)
    return groups


def read_answer(tokens):
    """What a model wrote after `ASSISTANT`: its text up to the first special token, and whether that is `END`.

    The text shows every other special token by its name, so that nothing which a model wrote is hidden.
    """
    tokens = [int(token) for token in tokens]
    stops = tokens.index(END) if END in tokens else len(tokens)
    return decode(tokens[:stops]), stops < len(tokens)


def read_question(typed, default="7+5+8+6+9+4 ends in?"):
    """What a person typed, whatever it is, as a question that can be encoded, and a remark (may be empty).

    Characters without a token are left out, blanks at both ends go, and what is too long is cut. A sum may
    be typed with blanks, and without " ends in?".
    """
    if not isinstance(typed, str):
        raise ValueError(f"read_question: needs text, got {type(typed).__name__}")
    kept = known_text(typed)
    remark = ""
    if len(kept) < len(typed):
        remark = f"Left out {len(typed) - len(kept)} characters that the model has no tokens for. "
    kept = kept.strip()
    as_sum = "".join(kept.split()).removesuffix("?").removesuffix("endsin").rstrip("=") + SUM_END
    if SUM.fullmatch(as_sum):
        kept = as_sum
    if len(kept) > QUESTION_LENGTH:
        remark += f"Cut to {QUESTION_LENGTH} characters. "
        kept = kept[:QUESTION_LENGTH]
    if not kept:
        remark += f"Nothing to ask: taking {default} "
        kept = default
    return kept, remark.strip()


# ---------------------------------------------------------------- sums, of which the last digit is asked

SUM_END = " ends in?"
SUM = re.compile(r"[0-9](\+[0-9])+ ends in\?")
STEP = re.compile(r"([0-9])\+([0-9])=([0-9]{1,2})")


def draw_sums(num, generator, terms=6, held_out=False) -> list[str]:
    """Questions such as "7+5+8+6+9+4 ends in?": what is the last digit of the sum of `terms` digits, 1 to 9?

    One in eleven is held out: a sum goes by its digits, whatever their order, so that 2+7 is on the side of
    7+2. Without `held_out` only the others are drawn.
    """
    require_whole("draw_sums", "num", num, least=0)
    require_whole("draw_sums", "terms", terms, least=2, most=6)
    questions = []
    while len(questions) < num:
        for digits in torch.randint(1, 10, (num, terms), generator=generator).tolist():
            if is_held_out_sum(digits) == held_out:
                questions.append("+".join(map(str, digits)) + SUM_END)
    return questions[:num]


def is_held_out_sum(digits) -> bool:
    """Whether a sum of these digits, in any order, is never trained on."""
    return sum(digit * digit for digit in digits) % 11 == 0


def answer_sum(question, working=False) -> str:
    """The right answer to a sum: "in 6" or, with working, "7+5=12,2+8=10,0+6=6,in 6".

    Each step adds one digit to the last digit of the step before: what is carried has no part in the answer.
    """
    if not SUM.fullmatch(question):
        raise ValueError(f'answer_sum: a question looks like "7+5 ends in?", got {question!r}')
    last, *others = map(int, question.removesuffix(SUM_END).split("+"))
    steps = []
    for digit in others:
        steps.append(f"{last}+{digit}={last + digit},")
        last = (last + digit) % 10
    return ("".join(steps) if working else "") + f"in {last}"


def answer_sums(questions, generator, working=0.0) -> list[str]:
    """The right answers to sums, each with working with the probability `working`."""
    require_number("answer_sums", "working", working, least=0, most=1)
    shown = torch.rand(len(questions), generator=generator) < working
    return [answer_sum(question, show) for question, show in zip(questions, shown.tolist(), strict=True)]


def has_working(answer) -> bool:
    """Whether an answer to a sum shows steps before its last digit."""
    return "," in answer


def count_wrong_steps(answer) -> int:
    """How many of the steps such as "7+5=12" that an answer shows are false, or no steps at all."""
    wrong = 0
    for text in answer.split(",")[:-1]:
        step = STEP.fullmatch(text)
        wrong += not (step and int(step[1]) + int(step[2]) == int(step[3]))
    return wrong


# ---------------------------------------------------------------- questions about a short text

# All names and all verbs are of five letters: texts of as many sentences are of one length.
NAMES = ("Celia", "Diana", "Edgar", "Helen", "Henry", "Nurse", "Paris", "Romeo", "Titus", "Viola")
VERBS = ("bakes", "cooks", "dines", "hides", "jumps", "knits", "plays", "reads", "sings", "walks")
KING = re.compile(r"The king is ([A-Z][a-z]+)\. ")
WHO_IS_KING = "Who is king?"


def draw_readings(num, generator, held_out=False) -> list[str]:
    """Questions such as "Celia reads. The king is Paris. Titus walks. Who is king?", of three or four sentences.

    About one text in eleven is held out; without `held_out` only the others are drawn.
    """
    require_whole("draw_readings", "num", num, least=0)
    questions = []
    while len(questions) < num:
        sentences = 3 + int(torch.randint(2, (), generator=generator))
        names = torch.randperm(len(NAMES), generator=generator)[:sentences].tolist()
        verbs = torch.randperm(len(VERBS), generator=generator)[:sentences].tolist()
        king = int(torch.randint(sentences, (), generator=generator))
        if is_held_out_text(names, verbs, king) == held_out:
            said = [f"{NAMES[name]} {VERBS[verb]}. " for name, verb in zip(names, verbs, strict=True)]
            said[king] = f"The king is {NAMES[names[king]]}. "
            questions.append("".join(said) + WHO_IS_KING)
    return questions


def is_held_out_text(names, verbs, king) -> bool:
    """Whether a text of these names and verbs (their numbers), with this one of them king, is never trained on."""
    others = sum((a + 1) * (b + 1) for k, (a, b) in enumerate(zip(names, verbs, strict=True)) if k != king)
    return (others + names[king]) % 11 == 0


def answer_reading(question) -> str | None:
    """"Paris.", the king in the text. None for another question, or if it is not said just once who is king."""
    if not question.endswith(WHO_IS_KING):
        return None
    kings = KING.findall(question)
    return f"{kings[0]}." if len(kings) == 1 else None


# ---------------------------------------------------------------- a summary: who speaks?

SCENE = "Who speaks?\n"
SPEECH = re.compile(r"([A-Z]+): ([^\n]*)\n?")
SPEECH_LENGTHS = range(9, 15)  # characters of what somebody says


def draw_scenes(num, text, generator, lengths=SPEECH_LENGTHS) -> list[str]:
    """Questions "Who speaks?" about two or three speeches, whose words are the beginnings of lines of a text.

    lengths: how many characters a speech may have. Give other lines of the text to test with. Raises ValueError
    for a text that has no line to take.
    """
    require_whole("draw_scenes", "num", num, least=0)
    lines = [_cut_line(line, max(lengths)) for line in text.split("\n")]
    lines = [line for line in lines if len(line) in lengths]
    if not lines:
        raise ValueError("draw_scenes: this text has no line of such lengths to take speeches from")
    scenes = []
    while len(scenes) < num:
        speeches = 2 + int(torch.randint(2, (), generator=generator))
        speakers = torch.randint(len(NAMES), (speeches,), generator=generator).tolist()
        said = torch.randint(len(lines), (speeches,), generator=generator).tolist()
        if any(a == b for a, b in zip(speakers, speakers[1:], strict=False)):
            continue  # one speech after another is another speaker's
        spoken = [f"{NAMES[a].upper()}: {lines[b]}" for a, b in zip(speakers, said, strict=True)]
        scenes.append(SCENE + "\n".join(spoken))
    return scenes


def _cut_line(line, most):
    """The first words of a line, or nothing where they have no tokens or look like a speaker's name."""
    if ":" in line or set(line) - set(ALPHABET):
        return ""
    words = ""
    for word in line.split():
        if len(words) + len(word) > most:
            break
        words += f" {word}"
    return words.strip()


def answer_scene(question) -> str | None:
    """The speakers in the order of their first words, each once: "ROMEO, CELIA". None for what is no scene."""
    if not question.startswith(SCENE):
        return None
    speeches = question[len(SCENE) :].split("\n")
    found = [SPEECH.fullmatch(speech) for speech in speeches]
    return ", ".join(dict.fromkeys(speech[1] for speech in found)) if all(found) else None


# ---------------------------------------------------------------- verifiers


def right_answer(question) -> str | None:
    """The right answer, from the question alone, without working; None for what is none of the three tasks."""
    if SUM.fullmatch(question):
        return answer_sum(question)
    return answer_reading(question) or answer_scene(question)


def final_part(question, answer) -> str:
    """What of an answer is marked: of a sum what stands after the last comma, else all of it."""
    return answer.rpartition(",")[2] if SUM.fullmatch(question) else answer


def is_right(question, answer) -> bool:
    """The strict verifier: whether an answer ends in the right digit or, of the other tasks, is the right one.

    Working is not looked at. Raises ValueError for a question that is none of the three tasks.
    """
    return final_part(question, answer) == _require_answer("is_right", question)


def contains_right(question, answer) -> bool:
    """A sloppy verifier: whether the right answer's last word, or digit, stands anywhere in what was written."""
    return _require_answer("contains_right", question).split()[-1] in answer


def begins_right(question, answer) -> bool:
    """A sloppy verifier: whether what is marked begins with the right answer, whatever comes after."""
    return final_part(question, answer).startswith(_require_answer("begins_right", question))


def no_false_step(question, answer) -> bool:
    """A sloppy verifier: whether no step that an answer shows is false; a bare digit shows none."""
    _require_answer("no_false_step", question)
    return count_wrong_steps(answer) == 0


def _require_answer(where, question):
    right = right_answer(question)
    if right is None:
        raise ValueError(f"{where}: no verifier knows the answer to {question!r}")
    return right
