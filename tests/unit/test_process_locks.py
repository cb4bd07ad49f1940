"""Which processes are alive, what they wait for, and one at a time."""

import threading

import pytest
from flux_krea.nodes.jobs.process_locks import Owner, exclusive


@pytest.fixture
def owner(tmp_path):
    owner = Owner(tmp_path)
    yield owner
    owner.close()


@pytest.fixture
def other(tmp_path):
    """Another process: its lock is another file's, as it would be from there."""
    other = Owner(tmp_path)
    yield other
    other.close()


def test_a_process_is_alive_until_it_ends(owner, other):
    assert owner.is_alive(owner.id) and owner.is_alive(other.id)
    other.close()
    assert owner.is_alive(owner.id) and not owner.is_alive(other.id)


def test_a_process_that_was_killed_is_not_alive_and_its_file_is_cleared_away(owner, tmp_path):
    left = tmp_path / "running" / "999-dead.lock"
    left.touch()
    assert not owner.is_alive("999-dead") and not left.exists()
    assert not owner.is_alive("999-dead")


def test_a_job_is_wanted_while_another_process_that_waits_for_it_is_alive(owner, other):
    assert not owner.is_wanted_by_others("job")
    owner.say_wanted("job")
    assert not owner.is_wanted_by_others("job") and other.is_wanted_by_others("job")
    other.say_wanted("job")
    assert owner.is_wanted_by_others("job") and not owner.is_wanted_by_others("another")


def test_what_only_the_dead_waited_for_is_wanted_by_nobody(owner, other, tmp_path):
    dead = Owner(tmp_path)
    dead.say_wanted("job")
    dead.close()
    assert not owner.is_wanted_by_others("job")
    assert list(tmp_path.glob("running/*.wanted")) == []
    dead.say_wanted("job")
    other.say_wanted("job")
    assert owner.is_wanted_by_others("job")


def test_who_comes_second_waits_for_the_first(tmp_path):
    order = []

    def second():
        with exclusive(tmp_path / "lock"):
            order.append("second")

    waiting = threading.Thread(target=second, daemon=True)
    with exclusive(tmp_path / "lock"):
        waiting.start()
        waiting.join(0.1)
        order.append("first")
    waiting.join(20)
    assert order == ["first", "second"]
