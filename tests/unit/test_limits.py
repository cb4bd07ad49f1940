"""The server's limits: where they come from, and that nobody's typing error opens the purse."""

import json
import os
import stat

import pytest
from flux_krea.nodes.jobs.limits import DEFAULTS, PER_DAY, PER_RUN, UNKNOWN_PRICE, VARIABLES, Limits, ServerLimits
from flux_krea.nodes.providers.contract import OverBudget, RequestRefused, money


@pytest.fixture
def limits(tmp_path, monkeypatch):
    for variable in VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    return ServerLimits(tmp_path / "private")


def test_the_environment_goes_before_the_file_and_the_file_before_the_defaults(limits, monkeypatch):
    assert DEFAULTS == {PER_RUN: 1.0, PER_DAY: 5.0, UNKNOWN_PRICE: 0.1}
    assert (limits.value(PER_DAY), limits.source(PER_DAY)) == (5.0, "default")
    limits.set(PER_DAY, 20)
    assert (limits.value(PER_DAY), limits.source(PER_DAY)) == (20.0, "file")
    monkeypatch.setenv("FLUX_KREA_MAX_COST_USD_24H", "7.5")
    assert (limits.value(PER_DAY), limits.source(PER_DAY)) == (7.5, "environment")
    monkeypatch.delenv("FLUX_KREA_MAX_COST_USD_24H")
    limits.set(PER_DAY, None)
    assert limits.with_node(None) == Limits(None, 1.0, 5.0)


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("per_run", "FLUX_KREA_MAX_COST_USD"),
        ("per_24_hours", "FLUX_KREA_MAX_COST_USD_24H"),
        ("unknown_price", "FLUX_KREA_UNKNOWN_PRICE_USD"),
    ],
)
def test_each_limit_keeps_its_name_in_the_file_and_in_the_environment(limits, tmp_path, monkeypatch, name, variable):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "limits.json").write_text(json.dumps({name: 0.25}))
    assert (limits.value(name), limits.source(name)) == (0.25, "file")
    monkeypatch.setenv(variable, "0.75")
    assert (limits.value(name), limits.source(name)) == (0.75, "environment")


@pytest.mark.parametrize("place", ["node", "environment", "file"])
def test_a_limit_of_nothing_is_a_limit_and_lets_nothing_through_but_what_is_free(limits, monkeypatch, place):
    node = 0 if place == "node" else None
    if place == "environment":
        monkeypatch.setenv(VARIABLES[PER_RUN], "0")
    if place == "file":
        limits.set(PER_RUN, 0)
        assert limits.value(PER_RUN) == 0
    limits.with_node(node).check(0.0, 0.0, 0.0)
    with pytest.raises(OverBudget, match=r"is \$0\.00, of which \$0\.00 is left"):
        limits.with_node(node).check(0.0001, 0.0, 0.0)


@pytest.mark.parametrize("name", [PER_RUN, PER_DAY, UNKNOWN_PRICE])
@pytest.mark.parametrize("text", ["half a dollar", "nan", "-1", "inf"])
def test_an_unreadable_limit_refuses_instead_of_allowing(limits, monkeypatch, name, text):
    monkeypatch.setenv(VARIABLES[name], text)
    with pytest.raises(OverBudget, match=VARIABLES[name]):
        limits.value(name)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"per_run": "much"}', '{"per_run": true}', '{"per_run": -1}'])
def test_a_damaged_file_refuses_instead_of_allowing(limits, tmp_path, content):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "limits.json").write_text(content)
    with pytest.raises(OverBudget, match="limits.json"):
        limits.with_node(None)


@pytest.mark.parametrize("usd", ["5", True, float("nan"), float("inf"), -0.01, [1]])
def test_what_is_no_amount_is_not_stored(limits, tmp_path, usd):
    with pytest.raises(RequestRefused, match="amount"):
        limits.set(PER_RUN, usd)
    with pytest.raises(RequestRefused, match="no limit"):
        limits.set("max", 1.0)
    assert not (tmp_path / "private").exists()


def test_the_file_is_for_its_owner_only(limits, tmp_path):
    limits.set(PER_RUN, 2.5)
    path = tmp_path / "private" / "limits.json"
    assert json.loads(path.read_text()) == {"per_run": 2.5} and stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("mode", "then"), [*((mode, 0o700) for mode in (None, 0o777, 0o755, 0o701, 0o740, 0o700)), (0o2700, 0o2700)]
)
def test_the_folder_is_for_its_owner_only_also_where_it_was_there_before(tmp_path, mode, then):
    folder = tmp_path / "not" / "there yet"
    if mode is not None:
        folder.mkdir(parents=True)
        folder.chmod(mode)
    ServerLimits(folder).set(PER_RUN, 2.5)
    assert stat.S_IMODE(folder.stat().st_mode) == then


def test_a_file_that_cannot_be_written_stays_as_it_was_and_leaves_nothing_beside_it(limits, tmp_path, monkeypatch):
    limits.set(PER_RUN, 2.5)

    def refuse(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space"):
        limits.set(PER_RUN, 3)
    assert limits.value(PER_RUN) == 2.5
    assert [path.name for path in (tmp_path / "private").iterdir()] == ["limits.json"]


def test_a_refusal_names_the_limit_what_is_left_and_where_to_raise_it():
    limits = Limits(0.05, 1.0, 5.0)
    limits.check(0.025, 0.025, 4.975)
    with pytest.raises(OverBudget, match=r"\$0\.05.*\$0\.025 is left.*max_cost_usd on the node"):
        limits.check(0.05, 0.025, 0.0)
    with pytest.raises(OverBudget, match=r"one run is \$1\.00.*\$0\.00 is left.*settings.*FLUX_KREA_MAX_COST_USD in"):
        Limits(None, 1.0, 5.0).check(0.025, 1.2, 1.2)
    with pytest.raises(OverBudget, match=r"24 hours is \$5\.00.*\$0\.01 is left.*FLUX_KREA_MAX_COST_USD_24H"):
        Limits(None, 1.0, 5.0).check(0.025, 0.0, 4.99)
    with pytest.raises(OverBudget, match="not an amount"):
        ServerLimits.with_node(None, float("nan"))


@pytest.mark.parametrize(
    ("usd", "text"),
    [(0.07500000000000001, "$0.075"), (1, "$1.00"), (0.0098, "$0.0098"), (12.5, "$12.50"), (0, "$0.00")],
)
def test_money_is_written_for_people(usd, text):
    assert money(usd) == text
