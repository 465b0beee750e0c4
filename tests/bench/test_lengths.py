"""Whether lengths were as asked."""

from dataclasses import replace

from app.bench.lengths import Lengths
from app.bench.records import Ask, Failure, Record

ASK = Ask(number=0, prompt="p", num_prompt_tokens=10, max_tokens=5)
RECORD = Record(0, 0.0, 0.0, 1.0, 2.0, prompt_tokens=10, output_tokens=5)


def warnings(*records: Record, ask: Ask = ASK, ignore_eos: bool = True) -> list[str]:
    lengths = Lengths(ignore_eos)
    for record in records:
        lengths.compare(ask, record)
    return lengths.warnings()


def test_lengths_as_asked_are_no_matter() -> None:
    assert warnings(RECORD, RECORD) == []


def test_other_lengths_are_counted_and_the_first_is_told() -> None:
    prompts, answers = warnings(RECORD, replace(RECORD, prompt_tokens=11, output_tokens=4), RECORD)
    assert "1 of 3 prompts" in prompts
    assert "11 tokens, not 10" in prompts
    assert "1 of 3 answers" in answers
    assert "4 tokens, not 5" in answers


def test_an_answer_may_end_early_where_the_end_token_counts() -> None:
    assert warnings(replace(RECORD, output_tokens=4), ignore_eos=False) == []


def test_a_prompt_whose_length_nobody_knew_is_no_matter() -> None:
    assert warnings(RECORD, ask=replace(ASK, num_prompt_tokens=None)) == []


def test_failures_have_no_lengths() -> None:
    assert warnings(replace(RECORD, prompt_tokens=0, failure=Failure.BROKEN)) == []
