"""What the page and the nodes are told beside a run: prices, what is left, pictures, keys, tickets; and who is asked."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import fake_provider
import pytest
from fake_provider import API, PROVIDERS, QUEUE, QUICK, Call, asked, jobs_in
from flux_krea.nodes.jobs import journal as journal_module
from flux_krea.nodes.jobs.jobs import Jobs
from flux_krea.nodes.jobs.limits import PER_DAY
from flux_krea.nodes.providers.contract import Estimate, KeyRefused, ProviderError, Unavailable, Unsupported
from test_paid_call import failure, run, until

pytestmark = pytest.mark.usefixtures("quick")


def jobs_at(folder, **providers):
    return Jobs(folder, folder / "pictures", providers, QUICK)


# Money


@pytest.mark.parametrize(("limit", "left"), [(1.0, 0.975), (0.025, 0.0), (0.02, 0.0)])
def test_what_is_left_of_today_is_never_less_than_nothing(jobs, limit, left):
    run(jobs)
    jobs.limits.set(PER_DAY, limit)
    assert jobs.spent_today() == 0.025 and jobs.left_today() == pytest.approx(left)


# Pictures


def test_each_picture_of_a_finished_job_is_had_by_its_number_and_no_other(jobs):
    pictures = jobs.start("fake", asked(images=2)).result(10).pictures
    [record] = jobs.pending()
    assert [jobs.picture(record.id, index) for index in (-1, 0, 1, 2)] == [None, *pictures, None]
    assert jobs.picture("0" * 32, 0) is None


def test_old_collected_pictures_are_deleted_although_a_person_deleted_one_before(jobs, server, tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "KEEP_PICTURE_BYTES", 0)
    handles = [jobs.start("fake", asked(seed)) for seed in (1, 2)]
    old, newer = (Path(handle.result(10).pictures[0].path) for handle in handles)
    for handle in handles:
        jobs.set_collected(handle.ticket)
    jobs.close()
    with sqlite3.connect(tmp_path / "journal.sqlite3") as db:
        db.execute("UPDATE jobs SET created = created - 2 * 86400")
        db.execute("UPDATE jobs SET updated = updated + 60 WHERE pictures LIKE ?", (f"%{newer.name}%",))
    db.close()
    newer.unlink()
    kept = run(jobs_in(tmp_path), seed=3).pictures[0]
    until(lambda: not old.exists())
    assert Path(kept.path).exists()


# Keys


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (199, Unavailable),
        (200, None),
        (204, None),
        (299, None),
        (300, Unavailable),
        (401, KeyRefused),
        (402, Unavailable),
        (403, KeyRefused),
        (404, Unavailable),
        (500, Unavailable),
    ],
)
def test_a_key_is_good_or_refused_only_where_the_provider_says_so(tmp_path, server, status, error):
    jobs = jobs_at(tmp_path, fake=replace(QUEUE, check=Call("GET", f"{API}/jobs")))
    server.faults["list"] = [status]
    if error is None:
        jobs.test_key("fake")
    else:
        with pytest.raises(error) as raised:
            jobs.test_key("fake")
        assert type(raised.value) is error and raised.value.paid is False


def test_a_provider_that_tells_nothing_of_a_key_for_nothing_is_not_asked(tmp_path, server):
    with pytest.raises(Unsupported, match="no call that tests a key"):
        jobs_at(tmp_path, fake=replace(QUEUE, check=None)).test_key("fake")
    assert server.seen == []


@pytest.mark.parametrize("provider_id", ["fake", "auto"])
def test_pictures_on_the_disk_need_no_key_and_whatever_has_to_be_asked_for_does(
    tmp_path, server, monkeypatch, provider_id
):
    jobs = jobs_at(tmp_path, fake=QUEUE)
    server.faults["submit"] = [422]
    error = failure(jobs.start(provider_id, asked(images=4)))
    assert "1 of 2 parts failed" in str(error)
    run(jobs, provider_id, seed=9)
    monkeypatch.delenv("FAKE_KEY")
    assert run(jobs, provider_id, seed=9).reused == 1
    for request, reuse in ((asked(9), False), (asked(images=4), True), (asked(5), True)):
        with pytest.raises(KeyRefused):
            jobs.start(provider_id, request, reuse=reuse)
    assert server.paid == 2 and server.count("submit") == 3


def test_a_paid_job_that_is_not_fetched_yet_needs_the_key(tmp_path, server, monkeypatch):
    def down(job, request):
        raise Unavailable("Fake is down.", paid=True)
        yield

    jobs = jobs_at(tmp_path, fake=replace(QUEUE, follow=down))
    failure(jobs.start("fake", asked()))
    monkeypatch.delenv("FAKE_KEY")
    with pytest.raises(KeyRefused):
        jobs.start("fake", asked())


def test_without_a_key_and_without_a_journal_that_can_be_read_the_key_is_what_is_missing(jobs, monkeypatch):
    def locked(name):
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(jobs._journal, "newest", locked)
    monkeypatch.delenv("FAKE_KEY")
    with pytest.raises(KeyRefused):
        jobs.start("fake", asked())


# Tickets


def test_a_ticket_of_which_a_part_failed_says_how_many(jobs, server):
    server.faults["submit"] = [422]
    handle = jobs.start("fake", asked(images=6))
    failure(handle)
    error = failure(jobs.collect(handle.ticket))
    assert isinstance(error, Unsupported) and "1 of 3 parts failed or were never sent" in str(error)
    assert server.paid == 2


def test_a_ticket_of_a_provider_that_this_version_does_not_have_is_one_that_nobody_knows(jobs, tmp_path):
    handle = jobs.start("fake", asked())
    handle.result(10)
    others = jobs_at(tmp_path, blocking=PROVIDERS["blocking"])
    assert "The journal knows no job with this ticket" in str(failure(others.collect(handle.ticket)))


# auto


@pytest.fixture
def market(tmp_path, server, monkeypatch):
    """The first is the dearer one."""
    prices = {"dear": 0.05, "cheap": 0.02}
    for name in prices:
        monkeypatch.setenv(f"FLUX_KREA_BASE_URL_{name.upper()}", server.url)
    return jobs_at(
        tmp_path,
        **{
            name: replace(QUEUE, label=name.capitalize(), estimate=lambda request, name=name: Estimate(prices[name]))
            for name in prices
        },
    ), prices


def test_auto_asks_last_where_nobody_knows_the_price_and_nobody_whose_page_does_not_list_the_mode(market):
    jobs, prices = market
    prices["cheap"] = None
    assert jobs.choose(asked()) == ["dear", "cheap"]
    jobs._providers["dear"] = replace(jobs._providers["dear"], unlisted_modes=("text_to_image",))
    assert jobs.choose(asked()) == ["cheap"]


def test_auto_goes_back_to_where_a_part_is_paid_although_another_has_become_cheaper(market, server):
    jobs, prices = market
    server.faults["submit"] = [422]
    jobs._providers["cheap"] = replace(jobs._providers["cheap"], submit=fails_late)
    failure(jobs.start("auto", asked(images=4)))
    prices.update(dear=0.01, cheap=0.03)
    jobs._providers["cheap"] = replace(jobs._providers["cheap"], submit=fake_provider.submit)
    result = jobs.start("auto", asked(images=4)).result(10)
    assert result.provider == "cheap" and result.reused == 2 and server.paid == 2


def fails_late(plan):
    """A refusal after which `auto` asks nobody else."""
    try:
        return (yield from fake_provider.submit(plan))
    except ProviderError:
        raise Unsupported("Cheap did not do it.") from None


def test_auto_waits_out_a_429_where_nobody_else_can_be_asked(tmp_path, server):
    server.faults["submit"] = [429]
    assert run(jobs_at(tmp_path, fake=QUEUE), "auto").provider == "fake"
    assert server.count("submit") == 2 and server.paid == 1
