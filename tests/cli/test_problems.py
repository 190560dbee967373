"""Tasks as tokens: which completions may serve as the trace of later hints, and what of them may be shown."""

import torch

from igpo_cli.problems import ProblemSet, own_trace
from igpo_cli.settings import Prompt
from igpo_data import Lists, Task
from igpo_rl import IGPO, Full, Sentence, Step
from igpo_sampling import Tiny

BYTES = Tiny(width=32, layers=1, heads=2)(vocabulary=None, seed=0)
WORDS = Tiny(width=32, layers=1, heads=2)(vocabulary=Lists().vocabulary(), seed=0)


def completion(loaded, text: str) -> torch.Tensor:
    return torch.tensor([*loaded.tokenizer(text, add_special_tokens=False)["input_ids"], loaded.eos_id])


def own(loaded, task: Task, text: str):
    (problem,) = ProblemSet.encode([task], Prompt(), loaded.tokenizer).problems
    return own_trace(problem, completion(loaded, text), task, loaded.tokenizer)


def shown(loaded, problem) -> str:
    """What may be a hint; a hidden token is a dot."""
    return "".join(
        loaded.tokenizer.decode([token]) if flag else "."
        for token, flag in zip(problem.trace.tolist(), problem.hintable.tolist(), strict=True)
    )


def test_statements_and_occurrences_of_the_answer_are_hidden_in_an_own_success():
    task = Task(key="1", prompt="6 x 7?", answer="42")
    found = own(BYTES, task, "Six is 42/7. So 42.\nThe answer is 42\n#### 42")
    assert shown(BYTES, found) == "Six is ../7. So ...\nThe answer is ..\n#### .."
    assert len(found.trace) == len(found.steps) == len(found.breaks) == 44


def test_the_value_is_hidden_in_the_form_in_which_it_is_stated_too():
    task = Task(key="1", prompt="Half of a half?", answer="0.25")
    assert shown(BYTES, own(BYTES, task, "It is 1/4 or 0.25 of 1.\n#### 1/4")) == "It is ... or .... of 1.\n#### ..."


def test_a_list_that_is_the_answer_is_hidden_wherever_it_stands():
    task = next(task for task in Lists(train_problems=8)("train"))
    found = own(WORDS, task, task.trace)
    words = task.trace.split()
    assert found.hintable.tolist() == [index < 13 or index == 18 for index in range(len(words))]
    assert words[18] == "####"


def test_a_success_that_states_no_answer_is_not_used():
    task = Task(key="1", prompt="6 x 7?", answer="42")
    assert own(BYTES, task, "It must be forty-two: 42") is None
    assert own(BYTES, task, "#### 41") is None
    assert own(BYTES, Task(key="1", prompt="Count down", answer=""), "#### 42") is None
    assert own(BYTES, task, "#### 42") is not None  # the mark alone


def test_traces_are_cut_where_sentences_and_steps_end():
    text = "Half of 48 is <<48/2=24>>24. That is May.\nTogether 48+24 = 72.\n#### 72"
    task = Task(key="1", prompt="?", answer="72", trace=text, answer_spans=((len(text) - 2, len(text)),))
    (problem,) = ProblemSet.encode([task], Prompt(), BYTES.tokenizer).problems
    for chunker, pieces in (
        (Sentence(), ["Half of 48 is <<48/2=24>>24.", " That is May.\n", "Together 48+24 = 72.\n", "#### "]),
        (Step(), ["Half of 48 is <<48/2=24>>", "24. That is May.\n", "Together 48+24 = 72.\n", "#### "]),
    ):
        assert [text[start:stop] for start, stop in chunker(problem, None)] == pieces
        assert IGPO(chunker=chunker, injection=Full()).chunker is chunker
