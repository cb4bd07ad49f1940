"""The paid path under random faults, the short form; `python dev.py bench crash` is the long one."""

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from paid_path import UNHURRIED, PaidPath

SHORT = settings(UNHURRIED, max_examples=12, stateful_step_count=25, derandomize=True)


def test_whatever_happens_each_order_is_paid_once_nothing_paid_is_lost_no_limit_passed_and_every_run_ends():
    try:
        run_state_machine_as_test(PaidPath, settings=SHORT)
    finally:
        PaidPath.forks.close()
    assert PaidPath.steps > 200 and PaidPath.jobs_paid > 20
