"""The Review Gate's codes: bound to the pixels, and to a secret that no workflow's maker has."""

import hashlib
import stat
import sys

import pytest
import torch
from flux_krea.nodes.safety.review_codes import SECRET, installation_secret, review_code

IMAGE = torch.full((1, 4, 4, 3), 0.5)


def unkeyed(image) -> str:
    """The code of 0.1.0, which whoever has the picture can compute."""
    digest = hashlib.sha256(f"{list(image.shape)} {image.dtype}".encode())
    digest.update(image.numpy().data)
    code = digest.hexdigest()[:12]
    return "-".join((code[:4], code[4:8], code[8:]))


def test_a_code_needs_the_installations_secret():
    codes = {review_code(IMAGE, secret) for secret in (b"", b"a" * 32, b"b" * 32)} | {unkeyed(IMAGE)}
    assert len(codes) == 4


def test_a_code_is_bound_to_shape_and_every_pixel():
    secret = b"a" * 32
    other = IMAGE.clone()
    other[0, 3, 3, 2] += 1e-7
    flat = IMAGE.reshape(1, 2, 8, 3)
    assert review_code(IMAGE, secret) == review_code(IMAGE.clone(), secret)
    assert len({review_code(image, secret) for image in (IMAGE, other, flat, torch.cat([IMAGE, IMAGE]))}) == 4


def test_the_secret_is_made_once_and_only_its_owner_can_read_it(tmp_path):
    folder = tmp_path / "private"
    folder.mkdir(mode=0o755)
    secret = installation_secret(folder)
    assert len(secret) == 32 and installation_secret(folder) == secret
    assert installation_secret(tmp_path / "another") != secret
    assert [path.name for path in folder.iterdir()] == [SECRET]
    if sys.platform != "win32":
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / SECRET).stat().st_mode) == 0o600


@pytest.mark.parametrize("damaged", [b"", b"short", b"x" * 33])
def test_a_damaged_secret_is_made_anew_and_never_used(tmp_path, damaged):
    (tmp_path / SECRET).write_bytes(damaged)
    secret = installation_secret(tmp_path)
    assert len(secret) == 32 and secret != damaged and installation_secret(tmp_path) == secret


def test_where_no_secret_can_be_kept_nothing_passes(tmp_path):
    (tmp_path / "private").write_text("a file where the folder should be")
    with pytest.raises(ValueError, match="nothing passes"):
        installation_secret(tmp_path / "private")
