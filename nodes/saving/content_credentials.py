"""Content Credentials (C2PA): a signature over the file that says how it was made, with the user's own certificate.

Only where the optional package `c2pa-python` is installed and the server's environment names a certificate and a key.
Nothing is sent: there is no time stamp, and nobody is asked.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .picture_file import MEDIA_TYPES, SaveError

CERTIFICATE, KEY = "FLUX_KREA_C2PA_CERT", "FLUX_KREA_C2PA_KEY"
PACKAGE = "c2pa-python"
PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(.+?)-----END \1-----", re.S)
ALGORITHMS = {  # an object identifier in the private key, in DER → C2PA's name
    bytes.fromhex("06082a8648ce3d030107"): "es256",
    bytes.fromhex("06052b81040022"): "es384",
    bytes.fromhex("06052b81040023"): "es512",
    bytes.fromhex("06032b6570"): "ed25519",
    bytes.fromhex("06092a864886f70d010101"): "ps256",
}
WITHOUT = "saved with the XMP sign only"
NO_THUMBNAIL = {"builder": {"thumbnail": {"enabled": False}}}  # a small picture of a picture would only cost room


@dataclass(frozen=True)
class Credentials:
    """A certificate chain and its private key, in PEM."""

    algorithm: str
    certificates: str
    private_key: str

    def __repr__(self) -> str:
        return f"Credentials({self.algorithm})"


def what_is_missing(certificate: str, key: str, has_package: bool | None = None) -> list[str]:
    """What keeps files from being signed, in words; the paths are the environment's, "" where it names none."""
    has_package = find_spec("c2pa") is not None if has_package is None else has_package
    missing = [] if has_package else [f"the Python package {PACKAGE} is not installed"]
    return missing + [f"{name} is not set" for name, path in ((CERTIFICATE, certificate), (KEY, key)) if not path]


def note_without(certificate: str, key: str) -> str:
    """What the node says where nobody has asked for a signature."""
    return f"No Content Credentials, {WITHOUT}: {', '.join(what_is_missing(certificate, key))}."


def read_credentials(certificate: str, key: str) -> Credentials | None:
    """None where the environment names neither file. Raises SaveError where it names one and signing is impossible."""
    if not certificate and not key:
        return None
    if missing := what_is_missing(certificate, key):
        raise _impossible(" and ".join(missing))
    # c2pa writes each block of the chain into the file: a private key that stands beside the certificates, too.
    chain = [part[0] for part in PEM.finditer(_read(certificate, CERTIFICATE)) if part[1] == "CERTIFICATE"]
    if not chain:
        raise _impossible(f"{CERTIFICATE} names a file without a certificate in PEM")
    algorithm, private = _private_key_in(_read(key, KEY))
    return Credentials(algorithm, "\n".join([*chain, ""]), private + "\n")


def signed(content: bytes, file_format: str, source_type: str, agent: str, with_: Credentials) -> bytes:
    """The file with its Content Credentials. `agent` is this program. Raises SaveError."""
    manifest = {
        "claim_generator_info": [{"name": agent}],
        "format": MEDIA_TYPES[file_format],
        "assertions": [{"label": "c2pa.actions", "data": {"actions": [_action(source_type, agent)]}}],
    }
    try:
        import c2pa

        info = c2pa.C2paSignerInfo(
            with_.algorithm.encode(), with_.certificates.encode(), with_.private_key.encode(), None
        )
        target = io.BytesIO()
        context = c2pa.Context(c2pa.Settings.from_dict(NO_THUMBNAIL))
        with c2pa.Signer.from_info(info) as signer, c2pa.Builder(json.dumps(manifest), context) as builder:
            builder.sign(signer, MEDIA_TYPES[file_format], io.BytesIO(content), target)
        return target.getvalue()
    except Exception as error:  # also of a broken library; its words may hold no path and no key
        said = re.sub(r"[^\w .:,()-]+", " ", str(error))[:200].strip()
        raise _impossible(f"{PACKAGE} refused the certificate or the key ({said or type(error).__name__})") from None


def _action(source_type: str, agent: str) -> Mapping[str, Any]:
    return {"action": "c2pa.created", "digitalSourceType": source_type, "softwareAgent": {"name": agent}}


def _impossible(reason: str) -> SaveError:
    return SaveError(
        f"The file cannot be signed with Content Credentials: {reason}. Nothing was saved. Mend it and restart ComfyUI, "
        f"or take {CERTIFICATE} and {KEY} out of its environment, or set sign to none."
    )


def _read(path: str, variable: str) -> str:
    try:
        return Path(path).expanduser().read_text("ascii")
    except (OSError, RuntimeError) as error:  # RuntimeError: of ~somebody, whom this machine does not know
        reason = getattr(error, "strerror", None) or "its home folder is unknown"
        raise _impossible(f"the file that {variable} names cannot be read ({reason})") from None
    except ValueError:
        raise _impossible(f"the file that {variable} names is no text in PEM") from None


def _private_key_in(text: str) -> tuple[str, str]:
    """C2PA's name for the first private key's kind, and that key alone, in PEM."""
    for part in PEM.finditer(text):
        kind, body = part.groups()
        if "ENCRYPTED" in kind or "ENCRYPTED" in body:
            raise _impossible(f"the key that {KEY} names is locked with a password, which is not supported")
        if kind == "RSA PRIVATE KEY":
            return "ps256", part[0]
        der = _der(body) if kind.endswith("PRIVATE KEY") else b""
        found = [name for mark, name in ALGORITHMS.items() if mark in der]
        if found:
            return found[0], part[0]
    raise _impossible(f"{KEY} names a file without a private key in PEM of a kind that C2PA knows (EC, Ed25519, RSA)")


def _der(body: str) -> bytes:
    try:
        return base64.b64decode("".join(body.split()))
    except ValueError:
        return b""
