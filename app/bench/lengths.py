"""Whether prompts and answers had the lengths that were asked for: with others, it was another load."""

from dataclasses import dataclass

from app.bench.records import Ask, Record


@dataclass(slots=True)
class _Deviations:
    """Of one kind of length: how many, and the first of them."""

    count: int = 0
    asked: int = 0
    found: int = 0

    def note(self, asked: int, found: int) -> None:
        if not self.count:
            self.asked, self.found = asked, found
        self.count += 1


class Lengths:
    def __init__(self, ignore_eos: bool) -> None:
        self._ignore_eos = ignore_eos
        self._num_compared = 0
        self._prompts = _Deviations()
        self._answers = _Deviations()

    def compare(self, ask: Ask, record: Record) -> None:
        if not record.is_completed:
            return
        self._num_compared += 1
        if ask.num_prompt_tokens not in (None, record.prompt_tokens):
            self._prompts.note(ask.num_prompt_tokens or 0, record.prompt_tokens)
        if self._ignore_eos and record.output_tokens != ask.max_tokens:
            self._answers.note(ask.max_tokens, record.output_tokens)

    def warnings(self) -> list[str]:
        warnings = []
        if self._prompts.count:
            warnings.append(
                f"{self._prompts.count} of {self._num_compared} prompts were not as long as asked: the server counted"
                f" {self._prompts.found} tokens, not {self._prompts.asked}"
            )
        if self._answers.count:
            warnings.append(
                f"{self._answers.count} of {self._num_compared} answers were not as long as asked, though the end token"
                f" was to be ignored: {self._answers.found} tokens, not {self._answers.asked}"
            )
        return warnings
