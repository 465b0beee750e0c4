from hypothesis import given
from hypothesis import strategies as st

from app.engine.bad_words import BadWords


def test_a_word_of_one_token_never_comes() -> None:
    assert BadWords([(7,)], [1]).banned() == {7}


def test_of_a_longer_word_the_last_token_does_not_come_behind_the_others() -> None:
    tokens = [1, 2]
    words = BadWords([(2, 3, 4), (3, 5)], tokens)
    assert words.banned() == set()
    tokens.append(3)
    assert words.banned() == {4, 5}
    tokens.append(9)
    assert words.banned() == set()


def test_a_word_longer_than_the_text_is_not_begun_yet() -> None:
    assert BadWords([(1, 2, 3, 4)], [3]).banned() == set()
    assert BadWords([(1, 2, 3, 4)], [2, 3]).banned() == set()


TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=6)


@given(TOKENS, st.lists(TOKENS, max_size=4))
def test_exactly_what_would_complete_a_word_is_banned(text: list[int], words: list[list[int]]) -> None:
    completing = {token for token in range(3) for word in words if [*text, token][-len(word) :] == word}
    assert BadWords([tuple(word) for word in words], text).banned() == completing
