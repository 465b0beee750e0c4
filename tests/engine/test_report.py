from app.engine.limits import Limits
from app.engine.report import StepTimes, report, views_of
from app.engine.request import DEADLINE, Emission, FinishReason, Request, RequestParams, Submission
from app.engine.scheduler import Scheduler
from tests.fakes import BYTES, FakeRunner

TIMES = StepTimes(started=4.0, ended=5.0)


def make_request(params: RequestParams, owner: str = "") -> Request:
    return Request(Submission("id", (1, 2, 3), params, "call", owner), 0, BYTES, arrival_time=2.0)


def make_scheduler() -> Scheduler:
    return Scheduler(FakeRunner().info, Limits(4, 8))


def test_a_prompt_counts_when_its_first_token_comes_or_it_was_to_be_read_only() -> None:
    scheduler = make_scheduler()
    read, answered, overdue = (make_request(RequestParams(n)) for n in (0, 2, 0))
    runner = FakeRunner()
    scheduler.add(read)
    scheduler.add(answered)
    figures = []
    while scheduler.has_work:
        batch = scheduler.schedule()
        figures.append(report(scheduler, scheduler.update(batch, runner.run(batch)), TIMES))
    assert [figure.num_prompt_tokens for figure in figures] == [6, 0, 0]
    assert [figure.num_generated_tokens for figure in figures] == [1, 1, 0]
    assert [figure.finished for figure in figures] == [("length",), ("length",), ()]
    assert figures[0].ttft_seconds == (3.0,)
    ended = overdue.end(FinishReason.LENGTH, stop_reason=DEADLINE)
    assert report(scheduler, [Emission(overdue, ended)], TIMES).num_prompt_tokens == 0


def test_views_are_of_one_owners_requests() -> None:
    scheduler = make_scheduler()
    for owner, timeout_s in (("ann", 1.5), ("bob", None), ("ann", None)):
        scheduler.add(make_request(RequestParams(2, timeout_s=timeout_s), owner))
    views = views_of(scheduler, "ann", now=3.0)
    assert [(view.state, view.age_s, view.deadline_in_s) for view in views] == [
        ("queued", 1.0, 0.5),
        ("queued", 1.0, None),
    ]
    assert views_of(scheduler, "ann", now=9.0)[0].deadline_in_s == 0.0
    assert views_of(scheduler, "", now=3.0) == ()
