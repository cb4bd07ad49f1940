"""Numbers and waiting times as people read them; and what of a provider's own says too much or too little."""

import pytest
from flux_krea.nodes.bridge.report import rounded
from flux_krea.nodes.jobs.planning import described, payload_hash, seedless_key_of
from flux_krea.nodes.providers import providers
from flux_krea.nodes.providers.answers import in_words, refusal
from flux_krea.nodes.providers.contract import IMAGE_TO_IMAGE, GenerationRequest, money
from flux_krea.nodes.providers.fal import SITE
from flux_krea.nodes.providers.polling import _useless
from scripted_answers import IMAGE, PNG, TEXT, reply


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0.4, "0 s"),
        (12, "12 s"),
        (119, "119 s"),
        (120, "2 minutes"),
        (300, "5 minutes"),
        (7200, "2 hours"),
        (86400, "24 hours"),
        (172800, "2 days"),
        (3 * 86400, "3 days"),
        (365 * 86400, "365 days"),
        (365 * 86400 + 1, "more than a year"),
        (1e300, "more than a year"),
    ],
)
def test_a_wait_is_said_in_its_own_unit(seconds, words):
    assert in_words(seconds) == words


def test_what_a_provider_asks_for_is_said_as_it_asked_wherever_it_refuses():
    answer = reply({"detail": "slow down"}, 429, retry_after="86400")
    for told in (refusal(answer, SITE), _useless(answer, SITE, paid=True)):
        assert "24 hours" in str(told) and told.retry_after == 86400.0
    assert "asks to wait" not in str(_useless(reply({}, 429), SITE, paid=True))


@pytest.mark.parametrize(
    "usd, text",
    [(0.075 + 1e-17, "$0.075"), (3 * 0.025, "$0.075"), (0.1 + 0.2, "$0.30"), (1, "$1.00"), (0.045 * 4, "$0.18")],
)
def test_money_is_said_without_the_dust_of_floats(usd, text):
    assert money(usd) == text
    assert len(str(rounded(usd))) <= 6 and rounded(None) is None


@pytest.mark.parametrize("name", providers())
def test_no_note_of_an_estimate_has_such_dust(name):
    for images in range(1, 17):
        for side in (64, 1024, 1448, 2048):
            note = providers()[name].estimate(GenerationRequest("a", width=side, height=side, images=images)).note
            assert "00000" not in note and "99999" not in note, note


# An input image that was scaled down

LARGE = GenerationRequest("a fox", mode=IMAGE_TO_IMAGE, image=PNG, seed=7, image_was=(8192, 4096))


@pytest.mark.parametrize("name", providers())
def test_a_scaled_image_is_said_in_the_changes(name):
    (change,) = [each for each in providers()[name].plan(LARGE).changes if each.parameter == "image"]
    assert (change.asked, change.delivered) == ("8192×4096", "64×64") and "4 megapixels" in change.reason
    assert not [each for each in providers()[name].plan(IMAGE).changes if each.parameter == "image"]


@pytest.mark.parametrize("name", providers())
def test_what_is_hashed_and_journalled_is_what_it_ever_was(name):
    same = GenerationRequest("a fox", mode=IMAGE_TO_IMAGE, image=PNG, seed=7)
    plan = providers()[name].plan
    assert payload_hash(name, plan(LARGE)) == payload_hash(name, plan(same))
    assert seedless_key_of(name, LARGE) == seedless_key_of(name, same)
    assert "image_was" not in described(LARGE) and described(TEXT)["extra"] == {}
