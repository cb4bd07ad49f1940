"""Content Credentials, judged by c2pa's own reader with a certificate made here, and XMP by exiv2."""

import io
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import c2pa
import numpy
import pyexiv2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from flux_krea.nodes.saving import content_credentials, picture_file, xmp
from flux_krea.nodes.saving.picture_file import SaveError, Texts
from PIL import Image

PLAIN, LOCKED = serialization.NoEncryption(), serialization.BestAvailableEncryption(b"open sesame")
PKCS8, TRADITIONAL = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL
PIXELS = numpy.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=numpy.uint8)
AGENT = "FLUX Krea 1.2.3 for ComfyUI"
PROMPT = "a “red” fox & <cub> 🦊\r\nby a river"


def certificate(key, issuer_key=None, name="A test", issuer="A test CA", ca=False) -> x509.Certificate:
    now = datetime.now(timezone.utc)
    subject, by = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "T")]) for each in (name, issuer))  # fmt: skip # noqa: E501
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key((issuer_key or key).public_key()), critical=False
        )
    )
    if not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    signs = issuer_key or key
    return builder.sign(signs, None if isinstance(signs, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def write(folder, key, form=PKCS8, lock=PLAIN):
    """A chain and its key as two files → their paths."""
    root = ec.generate_private_key(ec.SECP256R1())
    chain = [certificate(key, root), certificate(root, name="A test CA", ca=True)]
    place = folder / "chain.pem"
    place.write_bytes(b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain))
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, lock))
    return str(place), str(folder / "key.pem")


KEYS = {
    "es256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "es384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "es512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ps256": lambda: rsa.generate_private_key(65537, 2048),
}


def made(file_format, sign_with, source_type=xmp.MADE_BY_AI) -> bytes:
    packet = xmp.packet({xmp.SOURCE_TYPE: source_type, xmp.PROMPT: PROMPT})
    texts = Texts(prompt='{"1": 2}', extra={"workflow": '{"nodes": []}'}, parameters="a red fox", xmp=packet)
    content, _ = picture_file.encoded(Image.fromarray(PIXELS), file_format, 90, texts)
    return content_credentials.signed(content, file_format, source_type, AGENT, sign_with)


def verdict(content: bytes, file_format: str) -> tuple[dict, set[str]]:
    """c2pa's own: the active manifest, and the codes of what failed, but for that nobody knows the certificate."""
    with c2pa.Reader(picture_file.MEDIA_TYPES[file_format], io.BytesIO(content)) as reader:
        told = json.loads(reader.json())
    failed = {each["code"] for each in told["validation_results"]["activeManifest"]["failure"]}
    return told["manifests"][told["active_manifest"]], failed - {"signingCredential.untrusted"}


@pytest.mark.parametrize("algorithm", list(KEYS))
def test_each_kind_of_key_signs(tmp_path, algorithm):
    credentials = content_credentials.read_credentials(*write(tmp_path, KEYS[algorithm]()))
    assert credentials.algorithm == algorithm and "PRIVATE" not in repr(credentials)
    manifest, failed = verdict(made("png", credentials), "png")
    assert not failed
    assert manifest["signature_info"]["alg"].lower() == algorithm


@pytest.mark.parametrize("source_type", [xmp.MADE_BY_AI, xmp.MADE_FROM_PICTURE])
@pytest.mark.parametrize("file_format", picture_file.FORMATS)
def test_a_signed_file_verifies_and_keeps_all_that_was_in_it(tmp_path, file_format, source_type):
    credentials = content_credentials.read_credentials(*write(tmp_path, KEYS["es256"]()))
    content = made(file_format, credentials, source_type)
    manifest, failed = verdict(content, file_format)
    assert not failed
    (assertion,) = [each for each in manifest["assertions"] if each["label"].startswith("c2pa.actions")]
    (action,) = assertion["data"]["actions"]
    assert (action["action"], action["digitalSourceType"]) == ("c2pa.created", source_type)
    assert manifest["claim_generator_info"][0]["name"] == AGENT
    assert str(tmp_path).encode() not in content and b"PRIVATE KEY" not in content
    with Image.open(io.BytesIO(content)) as opened:
        if file_format == "png":
            assert numpy.array_equal(numpy.array(opened), PIXELS)
            assert opened.text["workflow"] == '{"nodes": []}'
        else:
            assert opened.getexif()[0x010F] == 'workflow:{"nodes": []}'
        opened.load()


@pytest.mark.parametrize("file_format", picture_file.FORMATS)
@pytest.mark.parametrize("key_first", [True, False])
def test_a_private_key_beside_the_certificates_stays_out_of_the_file(tmp_path, file_format, key_first):
    """Many programs keep both in one file, and c2pa writes each block of the chain into each picture."""
    key = KEYS["es256"]()
    paths = write(tmp_path, key)
    chain, private = (Path(path).read_text() for path in paths)
    both = tmp_path / "both.pem"
    both.write_text(private + chain if key_first else chain + private)
    for other in (paths[1], str(both)):
        content = made(file_format, content_credentials.read_credentials(str(both), other))
        assert key.private_numbers().private_value.to_bytes(32, "big") not in content
        assert not verdict(content, file_format)[1]


@pytest.mark.parametrize("file_format", picture_file.FORMATS)
def test_a_changed_pixel_fails(tmp_path, file_format):
    content = bytearray(made(file_format, content_credentials.read_credentials(*write(tmp_path, KEYS["es256"]()))))
    marks = {"png": b"IDAT", "jpeg": b"\xff\xda", "webp": b"VP8 "}
    content[content.rindex(marks[file_format]) + 400] ^= 1
    assert "assertion.dataHash.mismatch" in verdict(bytes(content), file_format)[1]


@pytest.mark.parametrize("file_format", picture_file.FORMATS)
def test_exiv2_reads_the_terms(tmp_path, file_format):
    credentials = content_credentials.read_credentials(*write(tmp_path, KEYS["es256"]()))
    packet = xmp.packet({xmp.SOURCE_TYPE: xmp.MADE_BY_AI, xmp.PROMPT: PROMPT, xmp.CREATOR: AGENT})
    plain, _ = picture_file.encoded(Image.fromarray(PIXELS), file_format, 90, Texts(xmp=packet))
    for content in (plain, made(file_format, credentials)):
        with pyexiv2.ImageData(content) as opened:
            found = opened.read_xmp()
        assert found["Xmp.iptcExt.DigitalSourceType"] == xmp.MADE_BY_AI
        assert found["Xmp.iptcExt.AIPromptInformation"] == PROMPT


def test_without_anything_nothing_is_signed_and_that_is_said():
    assert content_credentials.read_credentials("", "") is None
    assert content_credentials.what_is_missing("", "", has_package=False) == [
        "the Python package c2pa-python is not installed",
        "FLUX_KREA_C2PA_CERT is not set",
        "FLUX_KREA_C2PA_KEY is not set",
    ]
    assert "FLUX_KREA_C2PA_CERT is not set" in content_credentials.note_without("", "")


def test_a_signature_that_was_asked_for_in_vain_says_what_to_do(tmp_path, monkeypatch):
    chain, key = write(tmp_path, KEYS["es256"]())
    (tmp_path / "locked").mkdir()
    _, locked = write(tmp_path / "locked", KEYS["es256"](), lock=LOCKED)
    (tmp_path / "other").mkdir()
    _, other = write(tmp_path / "other", KEYS["es256"]())
    (tmp_path / "text.pem").write_text("hello")
    (tmp_path / "bytes.pem").write_bytes(bytes(range(256)))
    text, binary = str(tmp_path / "text.pem"), str(tmp_path / "bytes.pem")
    wrong = {
        (chain, ""): "FLUX_KREA_C2PA_KEY is not set",
        ("", key): "FLUX_KREA_C2PA_CERT is not set",
        (str(tmp_path / "none.pem"), key): "FLUX_KREA_C2PA_CERT names cannot be read",
        (chain, str(tmp_path)): "FLUX_KREA_C2PA_KEY names cannot be read",
        (chain, "~nobody-of-that-name/key.pem"): "FLUX_KREA_C2PA_KEY names cannot be read",
        (text, key): "without a certificate",
        (key, key): "without a certificate",
        (chain, chain): "without a private key",
        (chain, text): "without a private key",
        (chain, binary): "no text in PEM",
        (chain, locked): "locked with a password",
    }
    for (one, two), words in wrong.items():
        with pytest.raises(SaveError, match=words) as caught:
            content_credentials.read_credentials(one, two)
        assert "Nothing was saved" in str(caught.value) and str(tmp_path) not in str(caught.value)
    with pytest.raises(SaveError, match="refused the certificate or the key"):
        made("png", content_credentials.read_credentials(chain, other))
    monkeypatch.setattr(content_credentials, "find_spec", lambda name: None)
    with pytest.raises(SaveError, match="c2pa-python is not installed"):
        content_credentials.read_credentials(chain, key)


@pytest.mark.parametrize("form", [PKCS8, TRADITIONAL])
@pytest.mark.parametrize("algorithm", ["es256", "ps256"])
def test_either_form_of_a_key_is_read(tmp_path, algorithm, form):
    assert content_credentials.read_credentials(*write(tmp_path, KEYS[algorithm](), form)).algorithm == algorithm
