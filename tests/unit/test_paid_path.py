"""The paid path under random faults, the short form; `python dev.py bench crash` is the long one."""

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from paid_path import PaidPath

SHORT = settings(
    max_examples=12,
    stateful_step_count=25,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)


def test_whatever_happens_each_order_is_paid_once_nothing_paid_is_lost_no_limit_passed_and_every_run_ends(capsys):
    try:
        run_state_machine_as_test(PaidPath, settings=SHORT)
    finally:
        PaidPath.forks.close()
    with capsys.disabled():
        print(f" {PaidPath.steps} steps in {PaidPath.examples} examples, {PaidPath.jobs_paid} jobs paid ", end="")
    assert PaidPath.steps > 200 and PaidPath.jobs_paid > 20
