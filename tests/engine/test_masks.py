import threading
from concurrent.futures import Future
from queue import SimpleQueue

import pytest

from app.engine.errors import ConstraintFailed
from app.engine.masks import MaskThreads, failure
from app.engine.request import Constraint, Request, RequestParams, Submission
from tests.fakes import BYTES, bits


class OneMore:
    """Allows the token behind the last."""

    def __init__(self) -> None:
        self.last = 0

    def allowed(self) -> bytes:
        return bits(self.last + 1)

    def accept(self, token_id: int) -> None:
        if token_id == 13:
            raise ConstraintFailed("13 never")
        self.last = token_id


class Hangs(OneMore):
    def __init__(self, gate: threading.Event) -> None:
        super().__init__()
        self.gate = gate

    def allowed(self) -> bytes:
        self.gate.wait(10)
        return super().allowed()


def make_request(constraint: Constraint) -> Request:
    return Request(Submission("id", (1,), RequestParams(4, constraint=constraint)), 0, BYTES, arrival_time=0.0)


class Delivered:
    def __init__(self) -> None:
        self.masks: SimpleQueue[tuple[Request, Future[bytes]]] = SimpleQueue()
        self.threads = MaskThreads(lambda request, mask: self.masks.put((request, mask)))

    def next(self) -> tuple[Request, Future[bytes]]:
        return self.masks.get(timeout=10)


def test_a_mask_is_of_the_token_behind_the_last() -> None:
    delivered, request = Delivered(), make_request(OneMore())
    for token_id, mask in ((None, bits(1)), (6, bits(7))):
        delivered.threads.ask(request, token_id)
        assert [part if part is request else part.result() for part in delivered.next()] == [request, mask]  # type: ignore[union-attr]
    delivered.threads.close()


def test_what_a_constraint_raises_is_delivered() -> None:
    delivered, request = Delivered(), make_request(OneMore())
    delivered.threads.ask(request, 13)
    assert isinstance(delivered.next()[1].exception(), ConstraintFailed)
    delivered.threads.close()


def test_one_that_hangs_leaves_the_others_their_threads_and_is_not_waited_for() -> None:
    gate = threading.Event()
    delivered, quick = Delivered(), make_request(OneMore())
    delivered.threads.ask(make_request(Hangs(gate)), None)
    delivered.threads.ask(quick, None)
    assert delivered.next()[0] is quick
    delivered.threads.close()
    gate.set()


def test_a_client_is_told_a_constraints_own_words_and_of_anything_else_the_kind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert failure(ConstraintFailed("too many items")) == "too many items"
    assert not caplog.records
    assert failure(KeyError("a secret")) == "The constraint failed: KeyError."
    assert "a secret" in caplog.text
