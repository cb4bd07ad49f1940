"""Pictures that want more memory than they are worth: what is refused unread, and that none that was paid is lost."""

import base64
import struct
import tracemalloc
import zlib
from dataclasses import asdict
from pathlib import Path

import pytest
from fake_provider import asked, png
from flux_krea.nodes.jobs import downloads, picture_files
from flux_krea.nodes.jobs.job_record import JobRecord
from flux_krea.nodes.jobs.picture_files import MAX_PIXELS, MAX_SIDE, TooLarge
from flux_krea.nodes.providers import core_today, fal, lumenfall, one_min, replicate
from flux_krea.nodes.providers.contract import BadAnswer
from PIL import Image, features
from scripted_answers import TEXT, play, reply


def claiming(width, height, data=b"\0", extra=b""):
    """A small PNG whose header announces width × height."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    "width, height, words",
    [
        (1, 67_108_864, "sides of more than 16384"),
        (67_108_864, 1, "sides of more than 16384"),
        (MAX_SIDE + 1, 1, "sides of more than 16384"),
        (8193, 8192, "64 megapixels"),
        (20000, 20000, "64 megapixels"),
        (2**31 - 1, 2**31 - 1, "64 megapixels"),
    ],
)
def test_a_bomb_is_refused_undecoded_and_kept(tmp_path, width, height, words):
    tracemalloc.start()
    with pytest.raises(TooLarge, match=words) as refusal:
        picture_files.store([claiming(width, height)], tmp_path, "a")
    assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    tracemalloc.stop()
    kept = tmp_path / "a-refused.png"
    assert refusal.value.paid is True and str(kept) in str(refusal.value)
    assert list(tmp_path.iterdir()) == [kept] and kept.read_bytes() == claiming(width, height)
    assert picture_files.stored(tmp_path, "a") is None


def test_a_picture_that_is_right_the_next_time_takes_the_place_of_the_refused_one(tmp_path):
    with pytest.raises(TooLarge):
        picture_files.store([claiming(20000, 20000)], tmp_path, "a")
    picture_files.store([png()], tmp_path, "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("extra_name", [b"zTXt", b"iCCP", b"iTXt"])
def test_a_bomb_in_a_chunk_beside_the_picture_stays_packed(tmp_path, extra_name):
    packed = zlib.compress(bytes(80 * 2**20), 1)
    content = {b"zTXt": b"a\0\0" + packed, b"iCCP": b"a\0\0" + packed, b"iTXt": b"a\0\1\0\0\0" + packed}[extra_name]
    extra = struct.pack(">I", len(content)) + extra_name + content + struct.pack(">I", zlib.crc32(extra_name + content))
    tracemalloc.start()
    try:
        picture_files.store([claiming(8, 8, bytes(200), extra)], tmp_path, "a")
    except BadAnswer as refusal:
        assert "damaged" in str(refusal)
    assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    tracemalloc.stop()


def as_text(content):
    return "data:image/png;base64," + base64.b64encode(content).decode()


HOSTILE = {
    "webp that claims 16383 squared": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0\xfe\x3f\0\xfe\x3f\0",
    "webp without a frame": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0\x08\0\0\x08\0\0" + b"\0" * 8,
    "gif with a frame outside the screen": b"GIF89a\x08\0\x08\0\x80\0\0"
    + b"\0" * 6
    + b",\0\0\0\0\xff\xff\xff\xff\0\x02\0;",
    "gif cut off": b"GIF89a\xff\xff\xff\xff\x80\0\0" + b"\0" * 26,
    "jpeg of nothing": b"\xff\xd8\xff\xe0" + b"\0" * 40 + b"\xff\xd9",
    "jpeg that claims 65500 squared": b"\xff\xd8\xff\xc0\0\x11\x08\xff\xdc\xff\xdc\x03\x01\x11\0\x02\x11\0\x03\x11\0"
    + b"\0" * 20
    + b"\xff\xd9",
    "avif of nothing": b"\0\0\0\x1cftypavif\0\0\0\0mif1avifmiaf" + b"\0" * 40,
    "avif with boxes of no length": b"\0\0\0\x1cftypavif\0\0\0\0mif1avifmiaf\0\0\0\0meta" + b"\xff" * 40,
    "png without a header": b"\x89PNG\r\n\x1a\n" + b"\0" * 30 + b"IEND",
    "png whose sizes are zero": claiming(0, 0),
    "png whose checksum is wrong": png()[:-20] + b"\0\0\0\0" + png()[-16:],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_ends_in_a_sentence_and_costs_no_memory(tmp_path, name):
    tracemalloc.start()
    with pytest.raises((BadAnswer, picture_files.Incomplete)):
        picture_files.store([HOSTILE[name]], tmp_path, "a")
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()
    assert picture_files.stored(tmp_path, "a") is None


def whole(kind, tmp_path):
    Image.new("RGB", (64, 64), (200, 100, 50)).save(tmp_path / f"whole.{kind}")
    return (tmp_path / f"whole.{kind}").read_bytes()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", *(["avif"] if features.check("avif") else [])])
def test_no_byte_turned_over_makes_anything_but_a_sentence(tmp_path, kind):
    """Pillow raises RuntimeError, SyntaxError, struct.error and others on files like these."""
    content, folder = whole(kind, tmp_path), tmp_path / "pictures"
    for place in range(0, min(len(content), 400), 3):
        spoilt = bytearray(content)
        spoilt[place] ^= 0xFF
        try:
            picture = picture_files.store([bytes(spoilt)], folder, "a")
        except (BadAnswer, picture_files.Incomplete):
            continue
        assert 0 < picture.width <= MAX_SIDE and 0 < picture.height <= MAX_SIDE


@pytest.mark.parametrize("kind, least", [("png", 20), ("jpeg", 1), ("webp", 1)])
def test_a_picture_that_is_cut_off_is_incomplete_and_a_whole_one_is_not(tmp_path, kind, least):
    noise = Image.effect_noise((512, 512), 90)  # more than 64 kB, so that every byte of a length counts
    noise.convert("RGB").save(tmp_path / f"noise.{kind}", quality=100)
    content, folder = (tmp_path / f"noise.{kind}").read_bytes(), tmp_path / "pictures"
    for missing in (least, 20, 300, 2**16):
        with pytest.raises(picture_files.Incomplete):
            picture_files.store([content[:-missing]], folder, "a")
    assert picture_files.store([content], folder, "a").width == 512


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_picture_that_was_damaged_on_the_disk_since_counts_as_none(tmp_path, kind):
    picture = picture_files.store([whole(kind, tmp_path)], tmp_path / "pictures", "a")
    assert picture_files.stored(tmp_path / "pictures", "a") == picture
    path = Path(picture.path)
    path.write_bytes(path.read_bytes()[:-40])
    assert picture_files.stored(tmp_path / "pictures", "a") is None


def test_the_end_of_a_jpegs_own_thumbnail_is_not_taken_for_its_end(tmp_path):
    content = b"\xff\xd8\xff\xe0" + b"\xff\xd9" + bytes(10_000)
    with pytest.raises(picture_files.Incomplete):
        picture_files.store([content], tmp_path, "a")


@pytest.mark.parametrize("size, most", [((MAX_SIDE, 1), MAX_PIXELS), ((8192, 8192), MAX_PIXELS), ((8, 4), 32)])
def test_a_picture_exactly_as_large_as_it_may_be_is_taken(tmp_path, size, most):
    picture = picture_files.store([claiming(*size)], tmp_path, "a", most_pixels=most)
    assert (picture.width, picture.height) == size


@pytest.mark.parametrize("most, is_of_asked", [(MAX_PIXELS, False), (MAX_PIXELS - 1, True)])
def test_only_a_limit_that_comes_from_what_was_asked_is_said_to(tmp_path, most, is_of_asked):
    with pytest.raises(TooLarge, match="8193×8192 pixels; more than .* are refused") as refusal:
        picture_files.store([claiming(8193, 8192)], tmp_path, "a", most_pixels=most)
    assert (" megapixels, four times what was asked for, are" in str(refusal.value)) is is_of_asked


@pytest.mark.parametrize("size", [1, 7, 20, 31, 32, 33, 1000])
def test_a_picture_may_come_in_pieces_of_any_size(tmp_path, size):
    content, folder = png(), tmp_path / "not" / "there yet"
    pieces = [content[place : place + size] for place in range(0, len(content), size)]
    assert picture_files.store(pieces, folder, "a", len(content)).read() == content


@pytest.mark.parametrize("size", [1, 20, 32, 500])
def test_what_begins_like_no_picture_is_not_read_to_its_end(tmp_path, size):
    def pieces():
        for _ in range(33):
            yield b"x" * size
        raise AssertionError("it was read on")

    with pytest.raises(BadAnswer, match="unknown content"):
        picture_files.store(pieces(), tmp_path, "a")
    assert list(tmp_path.iterdir()) == []


def test_as_many_bytes_as_may_be_are_taken_and_one_more_refused(tmp_path, monkeypatch):
    content = png()
    monkeypatch.setattr(picture_files, "MAX_BYTES", len(content))
    assert picture_files.store([content], tmp_path, "a", len(content)).width == 8
    with pytest.raises(BadAnswer, match="larger than") as refusal:
        picture_files.store([content, b"x"], tmp_path, "b")
    assert refusal.value.paid is True
    with pytest.raises(BadAnswer, match="larger than"):
        picture_files.store(iter(lambda: pytest.fail("it was read"), None), tmp_path, "b", len(content) + 1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_picture_of_fewer_bytes_than_announced_is_incomplete(tmp_path):
    with pytest.raises(picture_files.Incomplete):
        picture_files.store([png()], tmp_path, "a", len(png()) + 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("most, longest", [(9, 9), (10, 12), (11, 12), (12, 12)])
def test_text_for_as_many_bytes_as_may_be_is_decoded_and_longer_text_is_not(monkeypatch, most, longest):
    monkeypatch.setattr(picture_files, "MAX_BYTES", most)
    assert picture_files.data_url_bytes(as_text(bytes(longest))) == bytes(longest)
    with pytest.raises(BadAnswer, match="larger than") as refusal:
        picture_files.data_url_bytes(as_text(bytes(longest + 1)))
    assert refusal.value.paid is True


@pytest.mark.parametrize(
    "text, words",
    [
        ("data:image/png,iVBO", "in a form that is not base64"),
        ("data:image/png;base64", "in a form that is not base64"),
        ("data:image/png;base64,iVB", "not valid base64"),
        ("data:image/png;base64,iV*O", "not valid base64"),
        ("data:image/png;base64,iVBé", "not valid base64"),
    ],
)
def test_text_that_is_no_picture_was_paid_all_the_same(text, words):
    with pytest.raises(BadAnswer, match=words) as refusal:
        picture_files.data_url_bytes(text)
    assert refusal.value.paid is True


def test_text_that_nobody_can_encode_is_kept_and_refused_every_time(tmp_path):
    folder = tmp_path / "not" / "there yet"
    picture_files.keep_unreadable("data:\ud83d", folder, "a", "It is damaged.")
    (kept,) = folder.iterdir()
    assert kept.read_text() == "It is damaged.\ndata:?"
    for _ in range(2):
        with pytest.raises(BadAnswer) as refusal:
            picture_files.refuse_again(folder, "a", MAX_PIXELS)
        assert str(refusal.value).startswith(f"It is damaged. What came is kept as {kept}. No run can collect it.")
        assert refusal.value.paid is True
    picture_files.refuse_again(folder, "b", MAX_PIXELS)


@pytest.mark.parametrize(
    "head, name",
    [
        (b"\x89PNG\r\n\x1a\n", "png"),
        (b"\xff\xd8\xff", "jpg"),
        (b"RIFF\x16\0\0\0WEBPVP8X", "webp"),
        (b"\0\0\0\x1cftypavif", "avif"),
        (b"\0\0\0\x1cftypavis", "avif"),
        (b"\0\0\0\x1cftypmif1", "avif"),
        (b"GIF87a\x08\0", "gif"),
        (b"GIF89a\x08\0", "gif"),
        (b"RIFF\x16\0\0\0WAVEfmt ", None),
        (b"FORM\x16\0\0\0WEBPVP8X", None),
        (b"\0\0\0\x1cftypheic", None),
        (b"\0\0\0\x1cmoovavif", None),
        (b"GIF88a\x08\0", None),
        (b"", None),
    ],
)
def test_the_format_is_told_by_the_first_bytes(head, name):
    assert picture_files.format_of(head) == name


@pytest.mark.parametrize(
    "content, found",
    [
        (b"", "an empty file"),
        (b" \n<!DOCTYPE html>", "a web page"),
        (b"<HTML>", "a web page"),
        (b'{"detail": "gone"}', "JSON"),
        (b" []", "JSON"),
        (b"Entry not found", "unknown content (it begins with 456e747279206e6f)"),
    ],
)
def test_what_came_instead_of_a_picture_is_named_and_was_paid(tmp_path, content, found):
    with pytest.raises(BadAnswer) as refusal:
        picture_files.store([content], tmp_path, "a")
    assert str(refusal.value) == f"The provider sent {found} where the picture should be."
    assert refusal.value.paid is True


def test_what_pillow_raises_on_an_avif_is_a_sentence(tmp_path, monkeypatch):
    def refuse(*arguments, **values):
        raise RuntimeError("Failed to decode image: Invalid ftyp")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(BadAnswer, match="avif picture is damaged"):
        picture_files.store([HOSTILE["avif of nothing"]], tmp_path, "a")


# Against what was asked


def record(**values):
    request = asdict(asked(**values))
    return JobRecord("fake", "fake/krea", "0" * 40, {**request, "image": None})


@pytest.mark.parametrize(
    "values, most",
    [
        ({}, 4 * 2**20),
        ({"width": 64, "height": 64}, 4 * 2**20),
        ({"width": 2048, "height": 2048}, 16 * 2**20),
        ({"width": 14142, "height": 14142}, MAX_PIXELS),
        ({"mode": "image_to_image"}, 16 * 2**20),
        ({"mode": "inpainting"}, 16 * 2**20),
        ({"extra": {"resolution": "4K"}}, MAX_PIXELS),
    ],
)
def test_a_picture_may_have_four_times_the_pixels_that_were_asked_for(values, most):
    assert downloads.most_pixels(record(**values)) == most


@pytest.mark.parametrize("request_", [{}, {"width": None, "height": "9"}, {"width": True, "height": 1}])
def test_a_record_that_does_not_say_what_was_asked_takes_what_providers_make(request_):
    assert downloads.most_pixels(JobRecord("fake", "fake/krea", "0" * 40, request_)) == 16 * 2**20


def test_a_picture_far_larger_than_asked_is_refused_kept_and_taken_when_it_is_right(jobs, server, tmp_path):
    server.picture = png(4096, 2048)
    with pytest.raises(BadAnswer) as refusal:
        jobs.start("fake", asked()).result(20)
    (kept,) = tmp_path.glob("pictures/*-refused.png")
    sentence = str(refusal.value)
    assert "4096×2048 pixels" in sentence and "4 megapixels" in sentence and str(kept) in sentence
    assert refusal.value.paid is True and "nothing is paid twice" in sentence
    assert [job.state for job in jobs.pending()] == ["delivered"]
    server.picture = png(1024, 1024)
    assert jobs.start("fake", asked()).result(20).pictures[0].width == 1024
    assert server.paid == 1 and not kept.exists()


def test_a_picture_as_text_that_is_too_large_is_kept_and_refused_every_time(jobs, server, tmp_path):
    server.result = lambda job: {
        "id": job["id"], "status": "done", "seed": 1, "pictures": [as_text(png(4096, 2048)), as_text(png())]
    }  # fmt: skip
    for _ in range(2):
        with pytest.raises(BadAnswer, match="4096×2048 pixels.*-0-refused.png"):
            jobs.start("fake", asked(images=2)).result(20)
    assert server.paid == 1
    assert sorted(path.suffix for path in tmp_path.glob("pictures/*.png")) == [".png", ".png"]


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "ftp://x.example/a.png",
        "FILE:/etc/passwd",
        "gopher://x/1",
        "javascript:alert(1)",
        "blob:x",
    ],
)
@pytest.mark.parametrize("provider_id", ["fake", "blocking"])
def test_an_address_that_is_no_web_address_ends_at_once_with_a_sentence(jobs, server, provider_id, address):
    server.result = lambda job: {"id": job["id"], "status": "done", "seed": 1, "pictures": [address]}
    with pytest.raises(BadAnswer, match="not https.*No run can collect it") as refusal:
        jobs.start(provider_id, asked()).result(20)
    assert address.split(":")[0] + ":" in str(refusal.value) and refusal.value.paid is True
    assert server.paid == 1 and server.count("picture") == 0


@pytest.mark.parametrize(
    "module", [fal, replicate, core_today, lumenfall, one_min], ids=lambda module: module.SITE.label
)
def test_every_provider_hands_such_an_address_on_instead_of_asking_ever_again(module):
    finished = {
        fal: [{"request_id": "a"}, {"status": "COMPLETED"}, {"images": [{"url": "file:///x"}], "seed": 1}],
        replicate: [{"id": "a"}, {"id": "a", "status": "succeeded", "output": ["file:///x"]}],
        core_today: [{"id": "a"}, {"id": "a", "status": "completed", "result": "file:///x"}],
        lumenfall: [{"data": [{"url": "file:///x"}]}],
        one_min: [{"aiRecord": {"status": "SUCCESS", "temporaryUrl": "file:///x"}}],
    }[module]
    answers = [reply(body) for body in finished]
    _, end = play(module.submit(module.plan(TEXT)), answers[:1])
    if module.PROVIDER.follow:
        _, end = play(module.follow(end, TEXT), answers[1:])
    assert end.pictures == ("file:///x",)
