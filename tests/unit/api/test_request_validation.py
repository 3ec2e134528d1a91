"""How pydantic's findings become problems that a caller can act on."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from pydantic import ValidationError

from api.errors import InvalidRequestError
from api.jobs.schemas import JobIn
from api.trials.schemas import ChatIn, MessageIn
from api.validation import LONGEST_PATH, MOST_PROBLEMS, RequestProblem, broken_texts, problems_of_model


def found(body: dict[str, object]) -> list[RequestProblem]:
    with pytest.raises(ValidationError) as caught:
        JobIn.model_validate({"model": "m", "training_file": "f"} | body)
    return problems_of_model(caught.value, JobIn)


def sgg(**hyperparameters: object) -> dict[str, object]:
    return {"method": {"type": "sgg", "sgg": {"hyperparameters": hyperparameters}}}


def test_the_branches_of_a_union_become_one_problem() -> None:
    [problem] = found(sgg(n_epochs="many"))
    assert problem.param == "method.sgg.hyperparameters.n_epochs"
    assert "integer" in problem.message and "'auto'" in problem.message and problem.message.count("'many'") == 1


def test_a_branch_of_a_union_never_shows_in_the_path() -> None:
    for value in (-1, "x", None, [], {}):
        [problem] = found(sgg(lora={"targets": value}))
        assert problem.param == "method.sgg.hyperparameters.lora.targets"


@pytest.mark.parametrize(
    ("body", "param", "like"),
    [
        ({"modle": "x"}, "modle", "model"),
        (sgg(batchsize=1), "method.sgg.hyperparameters.batchsize", "batch_size"),
        (sgg(guidance={"refrence": "ema"}), "method.sgg.hyperparameters.guidance.refrence", "reference"),
        ({"method": {"type": "sgg", "sgg": {"source": []}}}, "method.sgg.source", "sources"),
    ],
)
def test_an_unknown_name_gets_the_one_it_is_most_like(body: dict[str, object], param: str, like: str) -> None:
    [problem] = found(body)
    assert (problem.param, problem.message.endswith(f"Did you mean {like!r}?")) == (param, True)


def test_a_name_like_no_other_gets_all_known_ones() -> None:
    [problem] = found(sgg(guidance={"zzz": 1}))
    assert all(name in problem.message for name in ("radius", "magnitude", "direction", "alignment"))


def test_a_long_value_is_cut() -> None:
    [problem] = found({"suffix": "x" * 10_000})
    assert len(problem.message) < 200


def test_a_long_name_around_many_values_takes_no_room_of_its_own_for_each():
    body = {"k" * 50_000: [0] * 20_000 + ["\0"]}
    tracemalloc.start()
    try:
        (problem,) = broken_texts(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert problem.param == "k" * (LONGEST_PATH - 3) + "..."
    assert peak < 20e6


def test_as_many_broken_texts_are_named_as_someone_would_read():
    assert len(broken_texts(["\0"] * 5000)) == MOST_PROBLEMS


def test_unknown_names_are_compared_with_known_ones_only_while_that_is_quick():
    names = ["k" * 50_000, *(f"learning_rate_multipl{number}" for number in range(2000))]
    begun = time.process_time()
    with pytest.raises(ValidationError) as caught:
        JobIn.model_validate({"model": "m", "training_file": "f", **dict.fromkeys(names, 0)})
    problems = problems_of_model(caught.value, JobIn)
    assert time.process_time() - begun < 2
    assert problems[0].message == f"Unknown name {'k' * 100!r}. Remove it."


def test_what_is_wrong_many_times_is_named_a_hundred_times_and_counted():
    problems = found(dict.fromkeys((f"{number}{'k' * 5000}" for number in range(5000)), 0))
    assert problems[-1] == RequestProblem(
        None, "invalid_value", "There are 4,900 more problems. Fix those listed here first."
    )
    assert len(problems) == MOST_PROBLEMS + 1
    assert len(str(InvalidRequestError(problems))) < 100_000


def test_many_broken_texts_below_one_long_name_do_not_repeat_it_in_full():
    problems = broken_texts({"k" * 50_000: ["\0"] * 5000})
    assert len(str(InvalidRequestError(problems))) < 100_000


def test_the_name_of_a_speaker_is_refused_in_words_and_no_name_is_none() -> None:
    turn = {"role": "user", "content": "x"}
    with pytest.raises(ValidationError) as caught:
        ChatIn.model_validate({"model": "m", "messages": [turn, turn | {"name": "Ann"}]})
    [problem] = problems_of_model(caught.value, ChatIn)
    assert problem.param == "messages.1.name"
    assert problem.message == "Names of speakers are not supported: leave `name` out; it is 'Ann'."
    assert MessageIn.model_validate(turn | {"name": None}).turn() == MessageIn.model_validate(turn).turn()
