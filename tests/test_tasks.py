"""tasks.py: chats as tokens, the three tasks, what a person may type, and the verifiers."""

import itertools
import re

import pytest
import torch

from aigc_helpers import tasks
from tests.panel_checks import WORDS

TEXT = "\n".join(["First Citizen:", "Before we proceed any further, hear me", "Speak, speak.", "You are all resolved"])


DEFAULT = "7+5+8+6+9+4 ends in?"


def digits_of(question):
    return [int(digit) for digit in question.removesuffix(tasks.SUM_END).split("+")]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- chats as tokens


def test_a_text_comes_back_and_one_character_is_one_token():
    assert tasks.decode(tasks.encode(tasks.ALPHABET)) == tasks.ALPHABET
    assert len(tasks.ALPHABET) == 96 and tasks.VOCAB == 99
    assert max(tasks.encode(tasks.ALPHABET)) < min(tasks.USER, tasks.ASSISTANT, tasks.END)


def test_characters_without_a_token_are_named():
    with pytest.raises(ValueError, match="encode: these characters have no token: '€你'"):
        tasks.encode("你 a€")
    assert tasks.known_text("你 a€\n") == " a\n"


def test_no_text_makes_a_special_token():
    typed = tasks.encode("<user><assistant><end>")
    assert len(typed) == 22 and max(typed) < 96


def test_decode_shows_special_tokens_or_leaves_them_out():
    chat = tasks.encode_chat("a", "b")
    assert tasks.decode(chat) == "<user>a<assistant>b<end>"
    assert tasks.decode(chat, special=False) == "ab"
    with pytest.raises(ValueError, match="a token must be a whole number from 0 to 98, got 99"):
        tasks.decode([99])


def test_a_prompt_ends_where_the_answer_begins():
    assert tasks.encode_chat("1+2=") == tasks.encode_chat("1+2=", "3")[:6]


def test_exactly_the_answer_and_its_end_are_marked_and_rows_are_filled_up():
    tokens, is_answer = tasks.encode_chats(["1+2=", "Hi"], ["3", "Good day"])
    assert tokens.shape == is_answer.shape == (2, 13)
    for row, question, answer in ((0, "1+2=", "3"), (1, "Hi", "Good day")):
        chat = tasks.encode_chat(question, answer)
        assert tokens[row].tolist() == chat + [tasks.END] * (13 - len(chat))
        assert tasks.decode(tokens[row][is_answer[row]]) == f"{answer}<end>"
        assert is_answer[row].nonzero()[0] == len(question) + 2


def test_unequal_numbers_of_questions_and_answers_are_refused():
    with pytest.raises(ValueError):
        tasks.encode_chats(["a"], [])
    with pytest.raises(ValueError, match="there are no chats"):
        tasks.encode_chats([], [])


def test_an_answer_is_read_up_to_its_end():
    chat = torch.tensor(tasks.encode_chat("q", "12"))
    assert tasks.read_answer(chat[3:]) == ("12", True)
    assert tasks.read_answer(chat[3:5]) == ("12", False)
    assert tasks.read_answer([tasks.USER, tasks.END, 5]) == ("<user>", True)


def test_questions_are_grouped_by_length():
    assert tasks.group_by_length(["a", "bb", "c"]) == {1: [0, 2], 2: [1]}


# ---------------------------------------------------------------- what a person types


@pytest.mark.parametrize("typed", [*WORDS, "\n\n", "\x00", "1" * 500 + "=", "\ud83d"])
def test_whatever_is_typed_becomes_a_question_that_fits_and_at_most_one_line(typed):
    question, remark = tasks.read_question(typed)
    assert 1 <= len(question) <= tasks.QUESTION_LENGTH
    assert len(tasks.encode_chat(question)) + tasks.ANSWER_LENGTH + 1 <= tasks.CONTEXT
    assert "\n" not in remark


def test_what_is_left_out_cut_or_missing_is_said():
    assert tasks.read_question("你好 12") == ("12", "Left out 2 characters that the model has no tokens for.")
    assert tasks.read_question("") == (DEFAULT, f"Nothing to ask: taking {DEFAULT}")
    question, remark = tasks.read_question("a" * 81)
    assert question == "a" * 80 and remark == "Cut to 80 characters."
    assert tasks.read_question("Who speaks?\nROMEO: Hi")[1] == ""
    with pytest.raises(ValueError, match="needs text, got int"):
        tasks.read_question(5)


@pytest.mark.parametrize("typed", ["7+5", " 7 + 5 =", "7+5 ends in", "7+5=", "7 + 5 ends in?"])
def test_a_sum_may_be_typed_with_blanks_and_without_its_sign(typed):
    assert tasks.read_question(typed) == ("7+5 ends in?", "")


# ---------------------------------------------------------------- sums


def test_sums_by_hand():
    assert tasks.answer_sum("7+5 ends in?") == "in 2"
    assert tasks.answer_sum("7+5+8+6 ends in?", working=True) == "7+5=12,2+8=10,0+6=6,in 6"
    with pytest.raises(ValueError, match="a question looks like"):
        tasks.answer_sum("7+5")


def test_drawn_sums_have_their_terms_and_both_kinds_of_answer_are_right():
    for terms in (6, 3):
        for question in tasks.draw_sums(50, seeded(), terms):
            digits = digits_of(question)
            assert len(digits) == terms and 1 <= min(digits) and max(digits) <= 9
            assert tasks.answer_sum(question) == f"in {sum(digits) % 10}"
            for working in (False, True):
                answer = tasks.answer_sum(question, working)
                assert tasks.is_right(question, answer) and tasks.no_false_step(question, answer)
                assert tasks.has_working(answer) == working


def test_the_longest_chats_fit():
    longest = tasks.answer_sum("9+9+9+9+9+9 ends in?", working=True)
    assert len(longest) <= tasks.ANSWER_LENGTH
    drawn = tasks.draw_readings(300, seeded()) + tasks.draw_scenes(300, TEXT, seeded())
    assert max(map(len, drawn)) <= tasks.QUESTION_LENGTH
    assert tasks.QUESTION_LENGTH + tasks.ANSWER_LENGTH + 3 <= tasks.CONTEXT


def test_a_held_out_sum_is_held_out_in_any_order_and_drawn_only_when_asked_for():
    for order in itertools.permutations((2, 7, 4)):
        assert tasks.is_held_out_sum(order) == tasks.is_held_out_sum((2, 7, 4))
    for held_out in (False, True):
        for question in tasks.draw_sums(200, seeded(), held_out=held_out):
            assert tasks.is_held_out_sum(digits_of(question)) == held_out


def test_about_as_many_answers_show_their_working_as_asked_for():
    questions = tasks.draw_sums(2000, seeded())
    shown = sum(map(tasks.has_working, tasks.answer_sums(questions, seeded(1), 0.3)))
    assert 0.26 < shown / 2000 < 0.34
    assert not any(map(tasks.has_working, tasks.answer_sums(questions, seeded(1))))


def test_false_steps_are_counted():
    assert tasks.count_wrong_steps("7+5=12,2+8=10,in 0") == 0
    assert tasks.count_wrong_steps("7+5=13,3+8=11,1") == 1
    assert tasks.count_wrong_steps("7+5=13,x,3+=,=,0") == 4
    assert tasks.count_wrong_steps("0") == 0


# ---------------------------------------------------------------- texts and scenes


def test_a_reading_is_answered_from_its_text():
    assert tasks.answer_reading("Celia reads. The king is Paris. Who is king?") == "Paris."
    assert tasks.answer_reading("The king is Titus. Celia reads. Who is king?") == "Titus."
    assert tasks.answer_reading("Celia reads. Who is king?") is None
    assert tasks.answer_reading("The king is Paris. The king is Titus. Who is king?") is None
    assert tasks.answer_reading("The king is Paris. Who reads?") is None


def test_a_held_out_text_is_drawn_only_when_asked_for():
    def key(question):
        names = [tasks.NAMES.index(name) for name in re.findall("[A-Z][a-z]{4}", question)]
        verbs = [tasks.VERBS.index(verb) if verb in tasks.VERBS else 0 for verb in re.findall(r"(\w+)\. ", question)]
        return names, verbs, [s.startswith("The king") for s in question.split(". ")].index(True)

    for held_out in (False, True):
        for question in tasks.draw_readings(200, seeded(), held_out):
            assert tasks.is_held_out_text(*key(question)) == held_out


def test_readings_are_of_two_lengths_and_each_has_one_king():
    drawn = tasks.draw_readings(500, seeded())
    assert len({len(question) for question in drawn}) == 2
    assert len(set(map(tasks.answer_reading, drawn))) == 10
    assert all(map(tasks.answer_reading, drawn))


def test_a_scene_is_summarised_by_its_speakers_each_once_in_order():
    scene = "Who speaks?\nROMEO: Good night\nNURSE: My lady\nROMEO: Farewell"
    assert tasks.answer_scene(scene) == "ROMEO, NURSE"
    assert tasks.answer_scene(scene.removeprefix("Who speaks?\n")) is None
    assert tasks.answer_scene("Who speaks?\nnobody") is None


def test_scenes_take_the_beginnings_of_lines_and_no_speaker_follows_himself():
    for scene in tasks.draw_scenes(200, TEXT, seeded()):
        speeches = [tasks.SPEECH.fullmatch(line) for line in scene.split("\n")[1:]]
        assert 2 <= len(speeches) <= 3
        for speech in speeches:
            assert speech[1].title() in tasks.NAMES
            assert speech[2] in TEXT and len(speech[2]) in tasks.SPEECH_LENGTHS
        assert all(a[1] != b[1] for a, b in itertools.pairwise(speeches))
    with pytest.raises(ValueError, match="no line of such lengths"):
        tasks.draw_scenes(1, "a\nb:", seeded())
    lengths = {len(line.split(": ")[1]) for line in tasks.draw_scenes(50, TEXT, seeded(), (13,))[0].split("\n")[1:]}
    assert lengths == {13}


# ---------------------------------------------------------------- verifiers

SUM = "7+5+8 ends in?"
MARKS = {  # answer -> strict, contains, begins, no false step
    "in 0": (True, True, True, True),
    "7+5=12,2+8=10,in 0": (True, True, True, True),
    "7+5=12,2+8=10,in 1": (False, True, False, True),
    "7+5=13,3+8=11,in 0": (True, True, True, False),
    "in 05": (False, True, True, True),
    "in 0 ": (False, True, True, True),
    "0": (False, True, False, True),
    "9,in 0": (True, True, True, False),
    "": (False, False, False, True),
}


@pytest.mark.parametrize("answer", MARKS)
def test_each_verifier_says_what_its_name_says(answer):
    verifiers = (tasks.is_right, tasks.contains_right, tasks.begins_right, tasks.no_false_step)
    assert tuple(verifier(SUM, answer) for verifier in verifiers) == MARKS[answer]


def test_the_verifiers_know_all_three_tasks_and_refuse_what_is_none():
    for question in (*tasks.draw_readings(20, seeded()), *tasks.draw_scenes(20, TEXT, seeded())):
        right = tasks.right_answer(question)
        assert tasks.is_right(question, right)
        assert not tasks.is_right(question, f"x, {right}") and not tasks.is_right(question, right[:-1])
    for verifier in (tasks.is_right, tasks.contains_right, tasks.begins_right, tasks.no_false_step):
        with pytest.raises(ValueError, match=re.escape(f"{verifier.__name__}: no verifier knows")):
            verifier("How are you?", "Well")
