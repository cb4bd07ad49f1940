"""A seed that the node draws itself: what was paid and nobody got comes first; what was collected is over."""

import random

import pytest
from fake_provider import asked, jobs_in, png
from flux_krea.nodes.providers.contract import ProviderError, UnknownOutcome

SEEDS = random.Random(7)


def start(jobs, run, provider_id="fake", **values):
    """As API Krea does with seed -1, in the run of this name."""
    request = asked(SEEDS.randrange(1, 2**31), **values.pop("request", {}))
    return jobs.start(provider_id, request, drawn_by=run, **values)


def test_what_no_graph_has_got_is_taken_by_the_next_run_also_after_a_restart(jobs, server, tmp_path):
    paid = start(jobs, "first").result(10)
    again = start(jobs_in(tmp_path), "second").result(10)
    assert (again.seed, again.pictures, again.reused) == (paid.seed, paid.pictures, 1) and server.paid == 1


def test_what_a_graph_has_got_is_over_and_the_next_run_draws(jobs, server):
    handle = start(jobs, "first")
    paid = handle.result(10)
    jobs.set_collected(handle.ticket)
    assert start(jobs, "second").result(10).seed != paid.seed and server.paid == 2


def test_two_nodes_of_a_run_never_take_the_same(jobs, server, tmp_path):
    paid = {start(jobs, "first").result(10).seed for _ in range(2)}
    assert len(paid) == 2
    jobs = jobs_in(tmp_path)
    handles = [start(jobs, "second") for _ in range(3)]
    seeds = {handle.result(10).seed for handle in handles}
    assert len(seeds) == 3 and paid < seeds and server.paid == 3


@pytest.mark.parametrize("other", [{"prompt": "a harbour"}, {"steps": 12}, {"image": png()}, {"images": 2}])
def test_another_wish_is_another_job(jobs, server, other):
    start(jobs, "first").result(10)
    start(jobs, "second", request=other).result(10)
    start(jobs, "third", provider_id="forgetful").result(10)
    assert server.paid == 3


def test_all_parts_of_a_wish_come_back(jobs, server, tmp_path):
    paid = start(jobs, "first", request={"images": 5}).result(10)
    again = start(jobs_in(tmp_path), "second", request={"images": 5}).result(10)
    assert again.pictures == paid.pictures and len(again.pictures) == 5 and server.paid == 3


def test_a_blocking_job_that_was_cancelled_is_taken_by_the_next_run(jobs, server):
    server.duration = 0.3
    handle = start(jobs, "first", "blocking")
    assert server.arrived["submit"].wait(5)
    handle.cancel()
    assert start(jobs, "second", "blocking").result(10).pictures and server.paid == 1


def test_a_lost_answer_stands_in_no_new_seeds_way(jobs, server):
    server.faults["submit"] = ["reset_after"]
    with pytest.raises(UnknownOutcome, match="draws another seed"):
        start(jobs, "first", "forgetful").result(10)
    assert start(jobs, "second", "forgetful").result(10).pictures and server.paid == 2
    assert [record.waits_as for record in jobs.pending()] == ["answer lost", "ready"]


def test_reuse_off_and_a_seed_of_ones_own_draw_nothing_from_it(jobs, server):
    start(jobs, "first").result(10)
    start(jobs, "second", reuse=False).result(10)
    jobs.start("fake", asked(5)).result(10)
    assert server.paid == 3


def test_a_503_stands_in_no_new_seeds_way(jobs, server):
    server.faults["submit"] = [503]
    with pytest.raises(UnknownOutcome):
        start(jobs, "first", "forgetful").result(60)
    assert start(jobs, "second", "forgetful").result(60).pictures


def test_a_picture_whose_address_is_gone_stands_in_no_new_seeds_way_and_is_kept_until_it_is_gone_for_good(jobs, server):
    server.faults["picture"] = [404] * 1000
    seed = SEEDS.randrange(1, 2**31)
    with pytest.raises(ProviderError, match="paid and kept"):
        jobs.start("fake", asked(seed), drawn_by="first").result(60)
    server.faults.clear()
    assert start(jobs, "second").result(60).seed != seed and server.paid == 2
    server.faults["picture"] = [404] * 1000
    with pytest.raises(ProviderError, match="no longer to be had") as gone:
        jobs.start("fake", asked(seed)).result(60)
    assert gone.value.paid is True and jobs.spent_today() == 0.05
    assert "kept" not in str(gone.value) and "Run again with the same settings" not in str(gone.value)
    server.faults.clear()
    assert start(jobs, "third").result(60).pictures
