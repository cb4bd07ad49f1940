"""What is no whole safetensors file, and the sentence a user reads about each."""

import json
import os

import miniature
import pytest
from flux_krea.nodes.model_files.header import LONGEST_HEADER, Tensor, read_header, read_tensor, tensor_bytes
from flux_krea.nodes.model_files.weights import WeightFileError, inspect
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miniature import vae_layout


def message(path):
    with pytest.raises(WeightFileError) as caught:
        inspect(path)
    return str(caught.value)


PICKLE = (
    "a PyTorch pickle (.ckpt, .pt, .bin), which can run code while it loads: "
    "use the .safetensors file of the same model"
)
DAMAGED = "not a safetensors file, or a damaged one: download it again"
ADVICE = "Check the address, the licence and your token, and download it again"
GOOD = miniature.header_of({"x": ("F32", (4,))}) + bytes(16)


def header_of_length(length):
    """The first eight bytes of a file."""
    return length.to_bytes(8, "little")


NOT_SAFETENSORS = [
    ("an empty file", b"", "an empty file (0 bytes), the download never began: download it again"),
    (
        "a web page",
        b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title>",
        "a web page, not a model: the download was refused. "
        "Accept the licence on the model's page, sign in or use a token, and download it again",
    ),
    (
        "a storage error",
        b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        "a web page, not a model: the download was refused. "
        "Accept the licence on the model's page, sign in or use a token, and download it again",
    ),
    (
        "a JSON error",
        b'{"error": "Access to model is restricted"}',
        f"""an error message, not a model: '{{"error": "Access to model is restricted"}}'. {ADVICE}""",
    ),
    (
        "a plain answer",
        b"Entry not found",
        f"a text, not a model: 'Entry not found'. {ADVICE}",
    ),
    (
        "a Git LFS pointer",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 23802932552\n",
        "a Git LFS pointer, not the model (76 bytes; the real file has 23,802,932,552 bytes): run git lfs pull",
    ),
    (
        "a Git LFS pointer without a size",
        b"version https://git-lfs.github.com/spec/v1\n",
        "a Git LFS pointer, not the model (43 bytes): run git lfs pull",
    ),
    (
        "a GGUF file",
        b"GGUF\x03\x00\x00\x00" + bytes(64),
        "a GGUF file, which has loaders of its own: load it with the Unet Loader (GGUF) node of ComfyUI-GGUF "
        "and connect its MODEL to Krea Sampler",
    ),
    ("a pickle", b"\x80\x02}q\x00(X\x05\x00\x00\x00state" + bytes(64), PICKLE),
    ("a zipped pickle", b"PK\x03\x04" + bytes(26) + b"archive/data.pkl" + bytes(64), PICKLE),
    *(
        (f"a zipped pickle that is known by its {mark.decode()}", b"PK\x03\x04" + bytes(26) + mark, PICKLE)
        for mark in (b"other/data.pkl", b"archive/version")
    ),
    *((f"a pickle of protocol {number}", bytes((0x80, number)) + bytes(64), PICKLE) for number in (2, 3, 4, 5)),
    ("what only begins like a pickle", b"\x80\x06" + bytes(64), DAMAGED),
    ("what only goes on like a pickle", b"\x81\x02" + bytes(64), DAMAGED),
    (
        "a zip archive",
        b"PK\x03\x04" + bytes(26) + b"readme.md" + bytes(64),
        "a zip archive: unpack it and use the .safetensors file inside",
    ),
    *(
        (f"a {name} archive", start + bytes(64), "an archive: unpack it and use the .safetensors file inside")
        for name, start in (("gzip", b"\x1f\x8b\x08"), ("7-Zip", b"7z\xbc\xaf\x27\x1c"), ("RAR", b"Rar!\x1a\x07"))
    ),
    (
        "reserved space",
        bytes(4096),
        "nothing but zeros at its beginning, so the download never got that far: download it again",
    ),
    ("random bytes", bytes(range(128, 256)) * 9, DAMAGED),
    ("nine bytes", b"\xff" * 9, "cut off after 9 bytes: download it again"),
    ("ten bytes", b"\xff" * 10, DAMAGED),
    ("eight letters", b"Entry no", "cut off after 8 bytes: download it again"),
    ("nine letters", b"Entry not", f"a text, not a model: 'Entry not'. {ADVICE}"),
    ("every sign that a text can have", b" ~\t\r\n" * 2, f"a text, not a model: '~ ~'. {ADVICE}"),
    ("a text with a sign that texts do not have", b"Entry not\x7f", DAMAGED),
    ("a text with another", b"Entry not\x1f", DAMAGED),
    ("a long text", b"n" * 400, f"a text, not a model: {'n' * 120!r}. {ADVICE}"),
    ("a few bytes", GOOD[:7], "cut off after 7 bytes: download it again"),
    ("half a header", GOOD[:40], "cut off after 40 bytes, within its header: download it again"),
    ("half its weights", GOOD[:-8], f"cut off: {len(GOOD) - 8} of {len(GOOD)} bytes (92.9 %): download it again"),
    (
        "a few bytes too many",
        GOOD + b"abc",
        f"3 bytes too long ({len(GOOD) + 3} instead of {len(GOOD)}), "
        "as after a download resumed at the wrong place: download it again",
    ),
    ("no tensors", miniature.header_of({}), "it holds no weights at all: download it again"),
    ("the shortest header", header_of_length(2) + b"{}", "it holds no weights at all: download it again"),
    ("a header that is too short", header_of_length(1) + b"{}", DAMAGED),
    (
        "the longest header that may be, cut off",
        header_of_length(LONGEST_HEADER) + b"{}",
        "cut off after 10 bytes, within its header: download it again",
    ),
    ("a header that is longer", header_of_length(LONGEST_HEADER + 1) + b"{}", DAMAGED),
]


@pytest.mark.parametrize(
    ("content", "sentence"), [row[1:] for row in NOT_SAFETENSORS], ids=[r[0] for r in NOT_SAFETENSORS]
)
def test_what_is_no_safetensors_file_is_named_with_what_to_do(tmp_path, content, sentence):
    path = tmp_path / "flux1-krea-dev.safetensors"
    path.write_bytes(content)
    assert message(path) == f"flux1-krea-dev.safetensors: {sentence}"


def entry(dtype, shape, place, name="x"):
    return f'{{"{name}":{{"dtype":{dtype},"shape":{shape},"data_offsets":{place}}}}}'.encode()


TWICE = entry('"U8"', "[8]", "[0,8]")[:-1] + b"," + entry('"U8"', "[8]", "[0,8]", "y")[1:]

DAMAGED_HEADERS = [
    ("no JSON", b"{'x': 1}", "Expecting property name"),
    ("no UTF-8", b'{"\xff": 1}', "can't decode"),
    ("deep nesting", b'{"x":' + b"[" * 100_000, "recursion"),
    ("no shape", b'{"x":{"dtype":"F32","data_offsets":[0,4]}}', "x has no dtype, shape or place"),
    ("a number for a tensor", b'{"x":4}', "x has no dtype, shape or place"),
    ("a negative side", b'{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', "x has no proper dtype"),
    ("a true side", b'{"x":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}', "x has no proper dtype"),
    ("a size that is wrong", b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', "x does not have the size"),
    ("a gap", b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', "overlap or leave gaps"),
    ("metadata that is none", b'{"__metadata__":3}', "its metadata is not a table"),
    ("a number for a dtype", entry("3", "[1]", "[0,8]"), "x has no proper dtype"),
    ("a number for a shape", entry('"F32"', "1", "[0,4]"), "x has no proper dtype"),
    ("a table for a shape", entry('"F32"', "{}", "[0,4]"), "x has no proper dtype"),
    ("a negative place", entry('"F32"', "[1]", "[-4,0]"), "x has no proper dtype"),
    ("a true place", entry('"X9"', "[1]", "[0,true]"), "x has no proper dtype"),
    ("a side no file can have", entry('"X9"', f"[{2**63}]", "[0,8]"), "x has no proper dtype"),
    ("three places", entry('"F32"', "[1]", "[0,4,8]"), "x has no dtype, shape or place"),
    ("an end before its start", entry('"X9"', "[1]", "[8,0]"), "x does not have the size"),
    ("two tensors in one place", TWICE, "overlap or leave gaps"),
    ("a long name without a shape", b'{"%s":4}' % (b"x" * 90), f"({'x' * 80} has no dtype, shape or place)"),
    ("a long name with a bad one", entry("3", "[1]", "[0,8]", "x" * 90), f"({'x' * 80} has no proper dtype"),
    ("a long name of another size", entry('"F32"', "[1]", "[0,8]", "x" * 90), f"({'x' * 80} does not have the size"),
]


@pytest.mark.parametrize(
    ("text", "reason"), [row[1:] for row in DAMAGED_HEADERS], ids=[row[0] for row in DAMAGED_HEADERS]
)
def test_a_damaged_header_is_refused_with_the_reason(tmp_path, text, reason):
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    sentence = message(path)
    assert sentence.startswith("x.safetensors: its header is damaged (") and reason in sentence
    assert sentence.endswith("): download it again")


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [
        ("F4", (2, 3), 3),
        ("F6_E2M3", (4,), 3),
        ("F6_E3M2", (4,), 3),
        *((dtype, (3,), 3) for dtype in ("F8_E4M3", "F8_E5M2", "F8_E8M0", "BOOL", "U8", "I8")),
        *((dtype, (3,), 6) for dtype in ("F16", "BF16", "U16", "I16")),
        *((dtype, (3,), 12) for dtype in ("F32", "U32", "I32")),
        *((dtype, (3,), 24) for dtype in ("F64", "U64", "I64", "C64")),
        ("F32", (), 4),
        ("F32", (5, 0), 0),
    ],
)
def test_a_tensor_has_the_bytes_that_its_dtype_and_shape_ask_for(tmp_path, dtype, shape, size):
    path = tmp_path / "x"
    for place, content in (((0, size), bytes(size)), ((0, size + 1), bytes(size + 1))):
        text = json.dumps({"x": {"dtype": dtype, "shape": shape, "data_offsets": place}}).encode()
        path.write_bytes(header_of_length(len(text)) + text + content)
        if len(content) == size:
            assert tensor_bytes(read_header(path).tensors["x"]) == size
        else:
            with pytest.raises(WeightFileError, match="does not have the size"):
                read_header(path)


def test_a_dtype_of_the_future_has_any_size_and_counts_a_byte_a_value(tmp_path):
    for side in (4, 2**63 - 1):
        text = entry('"X9"', f"[{side}]", "[0,24]")
        (tmp_path / "x").write_bytes(header_of_length(len(text)) + text + bytes(24))
        tensor = read_header(tmp_path / "x").tensors["x"]
        assert tensor == Tensor("X9", (side,)) and tensor_bytes(tensor) == side


def test_a_tensor_is_read_from_its_place_and_not_from_a_file_that_was_cut_off_since(tmp_path):
    text = b'{"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"y":{"dtype":"U16","shape":[2],"data_offsets":[2,6]}}'
    path = tmp_path / "x"
    path.write_bytes(header_of_length(len(text)) + text + b"abcdef")
    header = read_header(path)
    assert (read_tensor(header, "x"), read_tensor(header, "y")) == (b"ab", b"cdef")
    os.truncate(path, header.bytes - 1)
    assert read_tensor(header, "x") == b"ab"
    with pytest.raises(WeightFileError, match="^x: cut off within y: download it again"):
        read_tensor(header, "y")
    path.unlink()
    with pytest.raises(WeightFileError, match="^x: it cannot be read: No such file"):
        read_tensor(header, "x")


def test_a_broken_link_is_named_with_what_it_points_to(tmp_path):
    link = tmp_path / "ae.safetensors"
    link.symlink_to(tmp_path / "gone.safetensors")
    assert message(link) == (
        f"ae.safetensors: a broken link: {tmp_path / 'gone.safetensors'} is not there: "
        "put the file back or remove the link"
    )


def test_a_file_that_is_not_there_and_a_folder_are_refused(tmp_path):
    assert message(tmp_path / "a.safetensors") == f"a.safetensors: there is no such file in {tmp_path}"
    assert "a folder or device, not a file" in message(tmp_path)


def test_a_link_to_a_good_file_and_the_sft_extension_are_accepted(tmp_path):
    file = miniature.write_header_only(tmp_path / "store" / "blob", vae_layout())
    link = tmp_path / "ae.sft"
    link.symlink_to(file)
    assert inspect(link).name == "ae.sft"


def test_every_beginning_of_a_good_file_is_refused(tmp_path):
    layout = {"redux_up.weight": ("F8_E4M3", (8, 4)), "redux_up.bias": ("F16", (8,))}
    good = miniature.write_safetensors(tmp_path / "good", layout)
    whole = good.read_bytes()
    assert inspect(good).kind == "style_model"
    for length in range(len(whole)):
        good.write_bytes(whole[:length])
        with pytest.raises(WeightFileError):
            inspect(good)


def inspected(path, content):
    """Either a file or a sentence; any other exception is a failure."""
    path.write_bytes(content)
    try:
        return str(inspect(path))
    except WeightFileError as error:
        return str(error)


many = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@many
@given(st.binary(max_size=600))
def test_random_bytes_are_refused_with_a_sentence(tmp_path, content):
    assert inspected(tmp_path / "x", content).startswith("x: ")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
tensors = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F16", "U8", "F4", "X9"]) | json_values,
        "shape": st.lists(st.integers(-1, 2**65), max_size=5) | json_values,
        "data_offsets": st.lists(st.integers(-1, 64), min_size=2, max_size=2) | json_values,
    },
)
names = st.sampled_from(
    ["double_blocks.0.x", "encoder.block.0.y", "text_model.z", "decoder.conv_in.weight", "redux_up.q"]
)


@many
@given(st.dictionaries(names | st.just("__metadata__") | st.text(max_size=8), tensors | json_values, max_size=5))
def test_any_json_for_a_header_gives_a_file_or_a_sentence(tmp_path, header):
    text = json.dumps(header).encode()
    assert inspected(tmp_path / "x", len(text).to_bytes(8, "little") + text + bytes(16)).startswith("x: ")


def test_a_file_a_few_bytes_short_is_not_called_whole(tmp_path):
    path = miniature.write_header_only(tmp_path / "x.safetensors", miniature.flux_layout(1, 1))
    size = path.stat().st_size
    os.truncate(path, size - 3)
    assert message(path) == f"x.safetensors: cut off: {size - 3:,} of {size:,} bytes (99.9 %): download it again"
