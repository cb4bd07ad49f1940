"""What is read from a provider's answer: numbers, addresses, texts, waits, and what a refusal means."""

import pytest
from flux_krea.nodes.providers.answers import (
    Site,
    as_dict,
    asks_to_wait,
    bad_job,
    error_text,
    finite_number,
    first_text,
    is_about_balance,
    is_about_content,
    lost,
    moment,
    own_url,
    picture_urls,
    refusal,
    retry_after,
    safe_id,
    unread_list,
)
from flux_krea.nodes.providers.contract import (
    Answer,
    BadAnswer,
    BalanceTooLow,
    Call,
    ContentRefused,
    KeyRefused,
    RateLimited,
    RequestRefused,
    UnknownOutcome,
    Upload,
)
from scripted_answers import reply

SITE = Site("Somebody", "https://somebody.example/keys", "https://somebody.example/billing")
A, B = "https://a.example/1.png", "https://b.example/2.png"
NOON, LATER, EARLIER = (f"Mon, 21 Sep 2026 {time} GMT" for time in ("12:00:00", "12:01:30", "11:59:00"))


# ---- values


@pytest.mark.parametrize(
    ("status", "ok"), [(199, False), (200, True), (299, True), (300, False), (404, False), (500, False)]
)
def test_an_answer_is_good_from_200_to_299(status, ok):
    assert Answer(status).ok is ok


@pytest.mark.parametrize(
    ("body", "value"), [(b"{}", {}), (b"0", 0), (b"", None), (b"{", None), (b"[" * 100_000, None), (b"\xff\xfe", None)]
)
def test_a_body_that_is_no_json_reads_like_none(body, value):
    assert Answer(200, body=body).json() == value


@pytest.mark.parametrize(
    "value",
    [
        Upload("image", "image.png", b"PNG bytes"),
        Call("PUT", "https://a.example/x", body=b"PNG bytes"),
        Answer(200, body=b"PNG bytes"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_file_stands_in_the_text_of_a_call_or_an_answer(value):
    assert "PNG bytes" not in repr(value)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *((0, 0.0), (2, 2.0), (0.5, 0.5), ("7", 7.0), ("2.5", 2.5), ("0", 0.0)),
        *((value, None) for value in (-0.1, "-1", True, False, None, "", "soon", [1], {"usd": 1})),
        *((value, None) for value in ("nan", "inf", float("nan"), float("inf"), 10**400)),
    ],
)
def test_a_number_is_finite_and_not_negative(value, number):
    assert finite_number(value) == number


def test_what_is_no_object_has_no_fields():
    assert as_dict({"a": 1}) == {"a": 1} and as_dict([1]) == as_dict(None) == as_dict("a") == {}


@pytest.mark.parametrize(
    ("value", "is_safe"),
    [("abc_DEF-123", True), ("a" * 128, True), ("a" * 129, False), ("", False), ("a/b", False), ("a.b", False),
     ("a\n", False), (5, False), (None, False)],
)  # fmt: skip
def test_an_id_that_stands_in_an_address_cannot_lead_elsewhere(value, is_safe):
    assert safe_id(value) == (value if is_safe else None)


# ---- addresses


@pytest.mark.parametrize(
    ("url", "is_own"),
    [
        ("https://a.example/x?y=1#z", True),
        ("https://a.example:443/x", True),
        ("https://A.EXAMPLE/x", True),
        ("https://b.example/x", True),
        ("https://a.example:444/x", False),
        ("https://a.example:80/x", False),
        ("https://a.example:port/x", False),
        ("http://a.example/x", False),
        ("https://me@a.example/x", False),
        ("https://@a.example/x", False),
        ("https://a.example@evil.example/x", False),
        ("https://a.example\\@evil.example/x", False),
        ("https://a.example.evil.example/x", False),
        ("https://a.example/ x", False),
        ("https://[::1/x", False),
        ("https://a.example/" + "x" * 2048, False),
        ("", False),
        (None, False),
        (["https://a.example/x"], False),
    ],
)
def test_a_call_goes_to_the_providers_own_hosts_alone(url, is_own):
    assert own_url(url, ["a.example", "b.example"]) == (url if is_own else None)


@pytest.mark.parametrize("key", ["url", "images", "image", "output", "result", "data"])
def test_a_picture_is_found_under_each_name_that_providers_have_for_it(key):
    assert picture_urls({"other": B, key: A}) == (A,)
    assert picture_urls({key: [{"url": A}, {"url": B}]}) == (A, B)


def test_the_first_name_with_a_picture_is_taken():
    assert picture_urls({"data": B, "url": A}) == (A,) and picture_urls({"data": B, "url": "none"}) == (B,)


def test_four_layers_around_a_picture_are_looked_through():
    four = {"data": [{"image": [A]}]}
    assert picture_urls([[[[A]]]]) == picture_urls(four) == (A,)
    assert picture_urls([[[[[A]]]]]) == picture_urls([four]) == picture_urls({"data": four}) == ()


# ---- texts


@pytest.mark.parametrize("key", ["detail", "message", "msg", "error", "errors", "error_message", "reason", "title"])
def test_an_error_is_read_under_each_name_that_providers_have_for_it(key):
    assert first_text({"code": "no", key: "said why"}) == first_text({key: {"message": "said why"}}) == "said why"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"error": "Bad Request", "message": "said why"}, "said why"),
        ({"detail": "", "error": "said why"}, "said why"),
        ([{"msg": "one"}, {}, "three", "four"], "one; three"),
        ("a\n b\t\x00c\u202e", "a b c"),
        ({"loc": ["body", "seed"], "msg": "is no int"}, "seed: is no int"),
        ({"loc": [], "msg": "is no int"}, "is no int"),
        ({"loc": "body", "msg": "is no int"}, "is no int"),
        ([[[["deep"]]]], "deep"),
        ([[[[["too deep"]]]]], ""),
        ({"error": {"error": {"error": {"error": "deep"}}}}, "deep"),
        ({"error": {"error": {"error": {"error": {"error": "too deep"}}}}}, ""),
        (None, ""),
        (5, ""),
    ],
)
def test_a_text_is_found_wherever_it_stands(value, text):
    assert first_text(value) == text


@pytest.mark.parametrize("wrap", [str, lambda text: [text], lambda text: {"loc": ["seed"], "msg": text[6:]}])
def test_a_text_ends_after_300_signs(wrap):
    assert first_text(wrap("seed: " + "x" * 294)) == first_text(wrap("seed: " + "x" * 295)) == "seed: " + "x" * 294


def test_texts_in_a_row_end_after_300_signs():
    assert first_text(["a" * 200, "b" * 200]) == "a" * 200 + "; " + "b" * 98


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"<html>no</html>", "an HTML page"),
        (b" \r\n<html>", "an HTML page"),
        (b"no \xff\n page", "no � page"),
        (b"", "nothing"),
        (b" \n", "nothing"),
        (b"{}", "no explanation"),
        (b'{"detail": "..."}', "no explanation"),
        (b'{"detail": "It broke."}', "It broke"),
    ],
)
def test_an_error_has_a_text_whatever_the_body_is(body, text):
    assert error_text(Answer(500, body=body)) == text


# ---- waits


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"retry_after": "2.5"}, {"retry_after": 9}, 2.5),
        ({"retry_after": "soon"}, {"retry_after": 9}, 9.0),
        ({"retry_after": "0"}, {"retry_after": 9}, 0.0),
        ({"retry_after": LATER, "date": NOON}, {}, 90.0),
        ({"retry_after": EARLIER, "date": NOON}, {}, 0.0),
        ({"retry_after": LATER}, {}, None),
        ({"retry_after": LATER, "date": "noon"}, {}, None),
        ({"date": NOON}, {}, None),
        ({}, [], None),
    ],
)
def test_how_long_to_wait_is_said_in_seconds_or_by_a_date_of_the_providers_clock(headers, body, seconds):
    assert retry_after(reply(body, 429, **headers)) == seconds


@pytest.mark.parametrize("date", [None, "", "soon", "Mon, 99 Sep 2026 12:00:00 GMT", "9" * 40])
def test_a_date_that_is_none_is_no_moment(date):
    assert moment(NOON) == 1790000000.0 - 8000.0 and moment(date) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, ""), (0.0, ""), (12.0, ", and asks to wait 12 s"), (120.0, ", and asks to wait 2 minutes")],
)
def test_a_wait_is_told_where_there_is_one(seconds, words):
    assert asks_to_wait(seconds) == words


# ---- what a refusal means


TEXTS = {"": "no", "balance": "insufficient balance", "content": "NSFW content"}


@pytest.mark.parametrize(
    ("status", "about", "kind"),
    [
        (402, "", BalanceTooLow),
        (402, "content", BalanceTooLow),
        (403, "balance", BalanceTooLow),
        (400, "balance", RequestRefused),
        (401, "balance", KeyRefused),
        (404, "balance", RequestRefused),
        (429, "", RateLimited),
        (429, "balance", RateLimited),
        (429, "content", RateLimited),
        (400, "content", ContentRefused),
        (403, "content", ContentRefused),
        (499, "content", ContentRefused),
        (401, "content", KeyRefused),
        (401, "", KeyRefused),
        (403, "", KeyRefused),
        (400, "", RequestRefused),
        (404, "", RequestRefused),
        (499, "", RequestRefused),
    ],
)
def test_a_refusal_below_500_costs_nothing_and_is_read_by_status_and_text(status, about, kind):
    error = refusal(reply({"detail": TEXTS[about]}, status), SITE)
    assert type(error) is kind and error.paid is False and f"Somebody answered {status}: {TEXTS[about]}." in str(error)
    assert (SITE.billing in str(error)) == (kind is BalanceTooLow) and (SITE.keys in str(error)) == (kind is KeyRefused)


@pytest.mark.parametrize("about", TEXTS)
@pytest.mark.parametrize(
    ("status", "kind"), [(302, BadAnswer), (399, BadAnswer), (500, UnknownOutcome), (504, UnknownOutcome)]
)
def test_another_answer_to_the_paid_call_leaves_open_whether_it_was_paid(status, kind, about):
    answer = reply({"detail": TEXTS[about]}, status)
    error = refusal(answer, SITE)
    assert type(error) is kind and error.paid is None and SITE.billing in str(error)


@pytest.mark.parametrize(
    ("headers", "when", "seconds"),
    [({}, "in a moment", None), ({"retry_after": "0"}, "in 0 s", 0.0), ({"retry_after": "300"}, "in 5 minutes", 300.0)],
)
def test_too_many_calls_says_when_to_try_again(headers, when, seconds):
    error = refusal(reply({"detail": "no"}, 429, **headers), SITE)
    assert f"try again {when}." in str(error) and error.retry_after == seconds


@pytest.mark.parametrize("text", ["NSFW", "content policy", "content_moderation", "was moderated"])
def test_these_words_are_about_content(text):
    assert is_about_content(text) and not is_about_balance(text)


@pytest.mark.parametrize(
    "text", ["Balance", "insufficient funds", "no credits", "1 credit", "top-up", "topup", "locked"]
)
def test_these_words_are_about_the_balance(text):
    assert is_about_balance(text) and not is_about_content(text)


@pytest.mark.parametrize("text", ["blocked", "accreditation", "the clock", "contents", ""])
def test_these_words_are_about_neither(text):
    assert not is_about_balance(text) and not is_about_content(text)


def test_an_answer_that_names_no_job_a_list_that_is_none_and_a_damaged_job_say_what_they_cost():
    assert lost(SITE).paid is None and SITE.billing in str(lost(SITE))
    assert unread_list(reply(b"", 401), SITE).paid is None and "(401)" in str(unread_list(reply(b"", 401), SITE))
    assert bad_job(SITE).paid is True and "Somebody" in str(bad_job(SITE))
