"""When a job is asked after: few polls, and one of them soon after its end."""

import pytest
from flux_krea.nodes.jobs import pace
from flux_krea.nodes.jobs.pace import Pace


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    monkeypatch.setattr(pace, "time", clock := Clock())
    return clock


def polls_of(pace: Pace, clock, job_seconds: float, usual: float = 1.0) -> list[float]:
    """The instants at which a job is asked after until it is done."""
    watch, began, polls = pace.watch("kind"), clock.now, []
    while not polls or polls[-1] < job_seconds:
        clock.now += watch.pause(usual)
        polls.append(clock.now - began)
    watch.ended()
    return polls


def test_a_first_job_is_asked_after_at_the_usual_pace(clock):
    assert polls_of(Pace(), clock, 4.3) == pytest.approx([1, 2, 3, 4, 5])


def test_later_jobs_of_a_kind_are_seen_to_end_at_once(clock):
    pace = Pace()
    late = [polls_of(pace, clock, 4.3)[-1] - 4.3 for _ in range(4)]
    assert late[0] > 0.5 and max(late[2:]) < 0.1


@pytest.mark.parametrize("seconds", [0.7, 2.2, 9.9])
def test_a_job_of_another_length_costs_a_few_polls_more_and_no_longer_wait(clock, seconds):
    pace = Pace()
    polls_of(pace, clock, 4.3)
    polls = polls_of(pace, clock, seconds)
    assert polls[-1] - seconds <= 1.0
    assert len(polls) <= seconds + 2 + 2 * pace.CLOSE_LOOKS


def test_kinds_do_not_mix(clock):
    pace = Pace()
    polls_of(pace, clock, 4.3)
    assert pace.watch("another kind").pause(1.0) == 1.0
