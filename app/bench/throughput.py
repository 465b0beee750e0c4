"""Tokens over time, counted as their pieces come: by the second, at the peak, and in the steady window.

What comes live are pieces of streams; how many tokens a piece is on average is known from `usage` once answers are
complete, and everything here is scaled by it when it is told.
"""

from typing import Any

MAX_SECONDS = 1800  # of the series: beyond that each entry covers twice the time


class Throughput:
    """Times are seconds since the run's start."""

    def __init__(self) -> None:
        self.num_pieces = 0
        self._width = 1.0  # seconds of an entry of the series
        self._series: list[int] = []
        self._second = 0
        self._in_second = 0
        self._peak = 0
        self._first_answer: tuple[float, int] | None = None  # when, and how many pieces had come
        self._last_send = (0.0, 0)

    def piece(self, now: float) -> None:
        self.num_pieces += 1
        if int(now) != self._second:
            self._close_second(int(now))
        self._in_second += 1
        place = int(now / self._width)
        if place >= len(self._series):
            place = self._grow(now)
        self._series[place] += 1

    def sent(self, now: float) -> None:
        self._last_send = (now, self.num_pieces)

    def answered(self, now: float) -> None:
        if self._first_answer is None:
            self._first_answer = (now, self.num_pieces)

    def _close_second(self, second: int) -> None:
        self._peak = max(self._peak, self._in_second)
        self._second, self._in_second = second, 0

    def _grow(self, now: float) -> int:
        while now / self._width >= MAX_SECONDS:
            self._width *= 2
            padded = [*self._series, *[0] * (len(self._series) % 2)]
            self._series = [one + other for one, other in zip(padded[::2], padded[1::2], strict=True)]
        place = int(now / self._width)
        self._series += [0] * (place + 1 - len(self._series))
        return place

    def peak(self, tokens_per_piece: float, duration: float) -> float:
        """Tokens in the best whole second; of a run shorter than that, its average."""
        if duration < 1:
            return self.num_pieces * tokens_per_piece / duration if duration > 0 else 0.0
        return max(self._peak, self._in_second) * tokens_per_piece

    def steady(self, tokens_per_piece: float) -> float | None:
        """Tokens a second from the first answer's end to the last request's sending; None where that is no time."""
        if self._first_answer is None:
            return None
        (begin, before), (end, after) = self._first_answer, self._last_send
        return (after - before) * tokens_per_piece / (end - begin) if end > begin and after > before else None

    def by_second(self, tokens_per_piece: float) -> list[dict[str, Any]]:
        """`t` is where an entry begins; entries are a second long, of a long run a power of two of that."""
        return [
            {"t": place * self._width, "output_tokens": round(pieces * tokens_per_piece, 1)}
            for place, pieces in enumerate(self._series)
        ]
