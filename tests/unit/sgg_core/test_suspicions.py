"""Warnings: each names the lines it means, and clean files have none."""

from sgg_core.shapes import ChatExample, ChatMessage, ClassificationExample, CompletionExample
from sgg_core.suspicions import leaks, probably_cut, suspicions

LATE = "my parcel number 4711 is late again, where is it"
STILL_LATE = "My parcel number 4712 is late again. Where is it?"


def told(problems):
    return [(problem.line, problem.field, problem.reason) for problem in problems]


def test_almost_equal_examples_of_one_label_are_named_with_both_lines():
    examples = [ClassificationExample(LATE, "late"), ClassificationExample("all is well here, thanks to you", "fine")]
    examples += [
        ClassificationExample(STILL_LATE, "late"),
        ClassificationExample("nothing to complain about at all", "fine"),
    ]
    [(line, field, reason)] = told(suspicions(examples, [1, 2, 5, 9]))
    assert (line, field) == (5, None)
    assert "line 1" in reason and "82 % of the words" in reason


def test_almost_equal_texts_with_different_labels_contradict_each_other():
    examples = [ClassificationExample(LATE, "late"), ClassificationExample(STILL_LATE, "lost")] * 2
    contradictions = [one for one in told(suspicions(examples, [1, 2, 3, 4])) if one[1] == "label"]
    assert [line for line, _, _ in contradictions] == [2]
    assert "'late' on line 1" in contradictions[0][2] and "'lost' here" in contradictions[0][2]


def test_warnings_come_in_the_order_of_the_lines_and_those_of_the_whole_file_first():
    examples = [ClassificationExample(f"text {number}", "many") for number in range(10)]
    examples += [ClassificationExample(f"word {number}", "few") for number in range(2)] + [examples[0]]
    first, second = told(suspicions(examples, range(1, 14)))
    assert first == (None, "label", "The label 'many' has 11 examples, 'few' has 2.")
    assert second[0] == 13


def test_less_than_five_to_one_is_no_imbalance():
    examples = [ClassificationExample(f"text {number}", "ab"[number % 5 == 0]) for number in range(10)]
    assert suspicions(examples, range(10)) == ()


def test_labels_that_differ_in_case_are_named_once_for_each_spelling():
    labels = ["Bug", "bug", "Bug", "bug", "BUG", "bug", "Bug", "BUG"]
    examples = [ClassificationExample(f"text {number}", label) for number, label in enumerate(labels)]
    assert told(suspicions(examples, range(1, 9))) == [
        (2, "label", "The labels 'Bug' and 'bug' differ only in upper and lower case."),
        (5, "label", "The labels 'Bug' and 'BUG' differ only in upper and lower case."),
    ]


def test_completions_and_chats_are_compared_as_a_whole():
    prompts = [CompletionExample(LATE, " Sorry for that."), CompletionExample(STILL_LATE, " Sorry for that.")]
    assert [line for line, _, _ in told(suspicions(prompts, [1, 2]))] == [2]
    chats = [
        ChatExample(
            (ChatMessage("user", LATE), ChatMessage("assistant", f"Answer {answer} is of its own kind entirely."))
        )
        for answer in ("one of many", "quite another thing in the end")
    ]
    assert suspicions(chats, [1, 2]) == ()


def test_leaks_are_found_word_for_word_and_almost_and_whatever_their_label():
    training = [ClassificationExample("fine", "a"), ClassificationExample(LATE, "b")]
    held_out = [
        ClassificationExample("new to everyone who reads this", "a"),
        ClassificationExample("fine", "b"),
        ClassificationExample(STILL_LATE, "b"),
    ]
    found = told(leaks(training, [3, 4], held_out, [1, 2, 3]))
    assert [line for line, _, _ in found] == [2, 3]
    assert "line 3" in found[0][2] and "line 4" in found[1][2]


def test_the_answer_to_a_leaked_question_does_not_hide_it():
    question = ChatMessage("user", "What is the capital of France?")
    one = ChatExample((question, ChatMessage("assistant", "Paris.")))
    other = ChatExample((question, ChatMessage("assistant", "It is Paris, of course.")))
    assert [line for line, _, _ in told(leaks([one], [1], [other], [7]))] == [7]


def test_long_examples_are_told_with_what_becomes_of_them() -> None:
    long = "word " * 500
    examples = [ClassificationExample("short", "a"), ClassificationExample(long, "b"), CompletionExample(long, "x")]
    told = probably_cut([*examples, CompletionExample(14 * long, "x")], (1, 2, 3, 4))
    assert [problem.line for problem in told] == [2, 4]  # a base model may well see the third one
    assert "2,500 characters" in told[0].reason and "cut at their end" in told[0].remedy
    assert "refused" in told[1].remedy and "8,192" in told[1].remedy
    assert probably_cut(examples[:1], (1,)) == ()
