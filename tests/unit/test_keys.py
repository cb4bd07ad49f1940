import json
import stat
from pathlib import Path

import pytest
from fake_provider import KEY, PROVIDERS
from flux_krea.nodes.jobs.keys import FROM_FILE, MISSING, Keys
from flux_krea.nodes.providers import providers
from flux_krea.nodes.providers.contract import KeyRefused


@pytest.fixture
def keys(tmp_path, monkeypatch):
    monkeypatch.delenv("FAKE_KEY", raising=False)
    return Keys(tmp_path / "private", PROVIDERS)


def test_the_environment_goes_before_the_file(keys, monkeypatch):
    assert (keys.get("fake"), keys.state("fake")) == (None, "missing")  # the page knows the states by these words
    keys.set("fake", "from-file")
    assert (keys.get("fake"), keys.state("fake")) == ("from-file", "file")
    monkeypatch.setenv("FAKE_KEY", "from-environment")
    assert (keys.get("fake"), keys.state("fake")) == ("from-environment", "environment")


def test_a_pasted_key_loses_its_quotes_and_spaces(keys):
    keys.set("fake", ' "abc:def" \n')
    assert keys.get("fake") == "abc:def"


def test_the_file_is_for_its_owner_only_and_removing_takes_the_key_out(keys, tmp_path):
    keys.set("fake", KEY)
    keys.set("blocking", "another-key")
    path = tmp_path / "private" / "keys.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    keys.remove("fake")
    assert json.loads(path.read_text()) == {"blocking": "another-key"}
    assert list(path.parent.iterdir()) == [path]


def test_an_empty_key_is_refused(keys):
    with pytest.raises(KeyRefused, match="empty"):
        keys.set("fake", " '' ")


def test_a_key_with_a_line_break_is_refused_without_being_quoted(keys, monkeypatch):
    monkeypatch.setenv("FAKE_KEY", "half-a-key\r\nX-Other: 1")
    with pytest.raises(KeyRefused) as refusal:
        keys.get("fake")
    assert "half-a-key" not in str(refusal.value)


@pytest.mark.parametrize("key", ["two words", "tab\tinside", "schlüssel"])
def test_a_key_with_a_sign_that_no_key_has_is_refused_before_it_goes_into_a_header(keys, key):
    keys.set("fake", key)
    with pytest.raises(KeyRefused, match="The Fake key has a space or a sign no key has"):
        keys.get("fake")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"fake": 7}', "\x00"])
def test_a_damaged_file_counts_as_no_key_and_can_be_written_again(keys, tmp_path, content):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "keys.json").write_text(content)
    assert keys.state("fake") == MISSING
    keys.set("fake", KEY)
    assert keys.get("fake") == KEY


@pytest.mark.parametrize(
    "secret",
    [
        KEY,
        "Bearer abcdefghijklmnop",
        "Key 0123456789abcdef:secret",
        "lmnfl_id.secret",
        "cdt_fake",
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg==",
        "https://bucket.example/a?X-Amz-Signature=0a1b2c3d4e&x=1",
    ],
)
def test_no_secret_survives_redaction(keys, monkeypatch, secret):
    monkeypatch.setenv("FAKE_KEY", KEY)
    told = keys.redacted(f"it said: {secret} - and more")
    assert secret not in told and "[hidden]" in told
    assert told.startswith("it said:") and told.endswith("and more")


def test_plain_sentences_are_left_alone_and_long_ones_cut(keys):
    assert keys.redacted("Key refused. Check the key.") == "Key refused. Check the key."
    assert keys.redacted("x" * 600) == "x" * 600
    assert keys.redacted("x" * 601) == keys.redacted("x" * 5000) == "x" * 599 + "…"


def test_a_text_that_nobody_can_encode_is_shown_all_the_same(keys):
    assert keys.redacted("half a sign: \ud83d") == "half a sign: ?"


def test_a_key_that_begins_with_another_is_hidden_whole_and_one_of_three_signs_not_at_all(keys):
    for name, key in (("fake", "abcd"), ("blocking", "abcd-1234"), ("forgetful", "xyz")):
        keys.set(name, key)
    assert keys.redacted("abcd, abcd-1234 and xyz") == "[hidden], [hidden] and xyz"


def test_a_file_of_version_0_1_0_is_read(tmp_path, monkeypatch):
    monkeypatch.delenv("FAL_KEY", raising=False)
    saved = Path(__file__).parent / "saved_by_0_1_0" / "keys.json"
    (tmp_path / "keys.json").write_text(saved.read_text())
    keys = Keys(tmp_path, providers())
    assert (keys.get("fal"), keys.state("fal")) == ("fal-key-of-a-test", FROM_FILE)
