"""A process that tries out grammars, started by `trials`: what a client wrote may make the library work for
minutes, take all memory, or give up the process, and nothing but the end of its process stops it.

Reads the special tokens from standard input, then grammars, each a line of JSON, and writes what is wrong with each to
standard output, a JSON string in a line; "" means nothing. Ends with its input, or over a grammar that takes too long.
Imports nothing of this project: it is run as a file.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Mapping

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

MAX_CPU_S = 1.0  # for one grammar; the processor's time, so that a busy machine refuses nothing
SECONDS_BETWEEN_LOOKS = 0.02


class SmallVocabulary:
    """As TokenizerWrapper wants one: special tokens with the ids that grammars know them by, and a token a byte."""

    bos_token_id = None

    def __init__(self, size: int, special: Mapping[str, str]) -> None:
        self.tokens = [b""] * size + [bytes([value]) for value in range(256)]
        self.special_token_ids = [int(token_id) for token_id in special]
        self.eos_token_id = self.special_token_ids[0]
        for token_id, name in special.items():
            self.tokens[int(token_id)] = name.encode()

    def __call__(self, text: bytes) -> list[int]:
        raise NotImplementedError  # no grammar forces tokens


def main() -> None:
    vocabulary = json.loads(sys.stdin.readline())
    tokenizer = LLTokenizer(TokenizerWrapper(SmallVocabulary(**vocabulary)), slices=[])
    for line in sys.stdin:
        with Deadline():
            problem = problem_of(json.loads(line), tokenizer)
        sys.stdout.write(json.dumps(problem) + "\n")
        sys.stdout.flush()


def problem_of(lark: str, tokenizer: LLTokenizer) -> str:
    matcher = LLMatcher(tokenizer, lark, log_level=0)
    if not matcher.is_error():
        matcher.compute_bitmask()
    return matcher.get_error()


class Deadline:
    """Ends the process if what it is around takes too much of the processor: the library lets others run meanwhile."""

    def __enter__(self) -> None:
        self._is_over = threading.Event()
        threading.Thread(target=self._watch, args=(time.process_time(),), daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()

    def _watch(self, started: float) -> None:
        while not self._is_over.wait(SECONDS_BETWEEN_LOOKS):
            if time.process_time() - started > MAX_CPU_S:
                os._exit(1)


if __name__ == "__main__":
    main()
