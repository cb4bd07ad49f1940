"""Files under the next free number, and what is taken out of the texts in them."""

import errno
import io
import json
import os

import pytest
from flux_krea.nodes.bridge.secrets import without_secrets
from flux_krea.nodes.jobs.keys import Keys
from flux_krea.nodes.providers import providers
from flux_krea.nodes.saving import numbered_files

KEY = "r8_" + "x7Kq" * 9


def test_no_file_is_ever_replaced(tmp_path):
    (tmp_path / "a_00001_.png").write_bytes(b"mine")
    assert numbered_files.write_next(str(tmp_path), "a", 1, "png", b"new") == ("a_00002_.png", 2)
    assert (tmp_path / "a_00001_.png").read_bytes() == b"mine" and (tmp_path / "a_00002_.png").read_bytes() == b"new"


def test_a_full_disk_leaves_no_half_file_and_says_what_to_do(tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, content):
            super().write(content[:3])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path))

    monkeypatch.setattr("builtins.open", lambda path, mode: Full(path, "x"))
    with pytest.raises(OSError) as caught:
        numbered_files.write_next(str(tmp_path), "a", 1, "png", b"content")
    assert not list(tmp_path.iterdir())
    said = str(numbered_files.as_save_error(caught.value, 2, 16))
    assert "disk" in said and "make room" in said and "2 of 16 images are saved" in said and str(tmp_path) not in said


def test_a_disk_that_is_full_only_when_the_file_is_closed_leaves_no_half_file(tmp_path, monkeypatch):
    """A network disk takes the bytes, and says at the end that it has no room."""

    class Full(io.FileIO):
        def close(self):
            if not self.closed:
                super().close()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path))

    monkeypatch.setattr("builtins.open", lambda path, mode: Full(path, "x"))
    with pytest.raises(OSError, match="No space"):
        numbered_files.write_next(str(tmp_path), "a", 1, "png", b"content")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENAMETOOLONG, errno.EIO, errno.ENOTDIR])
def test_other_errors_name_no_folder(number):
    said = str(numbered_files.as_save_error(OSError(number, os.strerror(number), "/some/where"), 0, 1))
    assert "Nothing was saved" in said and "filename_prefix" in said and "/some" not in said


@pytest.fixture
def keys(tmp_path, monkeypatch):
    monkeypatch.setenv("FAL_KEY", "a-key-of-my-own")
    return Keys(tmp_path, providers())


def test_keys_and_signatures_are_hidden_and_json_stays_json(keys):
    told = {
        "plain": "before a-key-of-my-own after",
        "shape": f"my token is {KEY}!",
        "fal": "0f8b1a2c-1111-2222-3333-444455556666:" + "0a" * 16,
        "signed": "https://bucket.s3.amazonaws.com/x.png?X-Amz-Credential=AKIA1&X-Amz-Signature=deadbeef&size=3",
        "password": "https://me:word@example.com/x",
        "token": "see https://example.com/lora.safetensors?token=tok-12345#top.",
    }
    cleaned = json.loads(without_secrets(json.dumps(told), keys))
    assert cleaned == {
        "plain": "before [hidden] after",
        "shape": "my token is [hidden]!",
        "fal": "[hidden]",
        "signed": "https://bucket.s3.amazonaws.com/x.png?X-Amz-Credential=[hidden]&X-Amz-Signature=[hidden]&size=3",
        "password": "https://[hidden]@example.com/x",
        "token": "see https://example.com/lora.safetensors?token=[hidden]#top.",
    }


def test_a_workflow_stays_json_whatever_the_key_is(tmp_path, monkeypatch):
    monkeypatch.setenv("FAL_KEY", "12345678")
    told = {"seed": 12345678, "more": [123456789.5, -12345678], "text": "is 12345678", "12345678": {"a": "1234 5678"}}
    cleaned = json.loads(without_secrets(json.dumps(told), Keys(tmp_path, providers())))
    assert "12345678" not in json.dumps(cleaned) and cleaned["text"] == "is [hidden]"


@pytest.mark.parametrize(
    "address",
    [
        "https://x.blob.example/a?se=1\\u0026sig=SECRET",
        "HTTPS://example.com/y?sig=SECRET",
        "wss://example.com/y?token=SECRET",
        "s3://bucket/y?X-Amz-Signature=SECRET",
        "https://example.com/y?auth=SECRET",
        "https://example.com/y?authorization=SECRET",
        "https://example.com/#access_token=SECRET&state=1",
    ],
)
def test_a_signature_is_hidden_in_whatever_form_its_address_is_written(keys, address):
    for text in (address, json.dumps({"a": address}), json.dumps(json.dumps({"a": address}))):
        cleaned = without_secrets(text, keys)
        assert "SECRET" not in cleaned and "[hidden]" in cleaned
        if text != address:
            json.loads(cleaned)


@pytest.mark.parametrize(
    "prompt",
    [
        "https://example.com?mail=a@b.c", "https://example.com#a@b",
        "Key lighting-from-the-left-side", "Basic understanding-of-perspective", "Bearer of-the-ring-and-friends",
        "a sign that says token=5 & key=none", "https://example.com/pictures?page=2", "r8_short", "\ud800\0🦊",
        "0f8b1a2c-1111-2222-3333-444455556666", "a@b.c", "", "http://", "data:image/png;base64,AAAAAAAAAAAAAAAAAAAA",
    ],
)  # fmt: skip
def test_what_only_looks_a_little_like_it_stays(keys, prompt):
    assert without_secrets(prompt, keys) == prompt
    assert json.loads(without_secrets(json.dumps(prompt), keys)) == prompt
