"""Signed statements: DSSE envelopes (secure-systems-lab/dsse 1.0) in Sigstore bundles 0.3, which cosign reads as well.

A bundle has one signature, checked with the key that the verifier was given; the key that a bundle names is ignored.

Envelope, encoding and signature check are securesystemslib's. Two things are done here because it cannot do them (version 1.6):
its CryptoSigner draws a new nonce for each ECDSA signature, and its envelopes need a `keyid`, which cosign does not write.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from pydantic import SecretStr
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, Signature, SSlibKey  # type: ignore[attr-defined]  # it lists no __all__

from torchrelay.core.errors import InputsInvalid, NotAttested
from torchrelay.core.json_text import parse_untrusted
from torchrelay.core.text import shown
from torchrelay.oci.image import canonical

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
SIGNING_KEY, VERIFY_KEY = "the signing key", "the verify key"
CREATE_KEY = "create one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out signing.pem`"
MOST_KEYS = 10
KINDS = "an ECDSA P-256 or Ed25519 key"

_BEGIN = re.compile(r"^-----BEGIN ([A-Z0-9 ]+)-----\s*$", re.MULTILINE)
_BLOCK = re.compile(r"-----BEGIN [A-Z0-9 ]+-----.*?-----END [A-Z0-9 ]+-----", re.DOTALL)
_PARAMETERS = "EC PARAMETERS"  # `openssl ecparam -genkey` writes them before the key

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True)
class Verifier:
    """A public key."""

    key: PublicKey

    @property
    def pem(self) -> str:
        """The key as PEM, SubjectPublicKeyInfo."""
        return self.key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()

    @property
    def hint(self) -> str:
        """The key's name in a bundle: base64 of the sha256 of its DER form, as cosign writes it."""
        der = self.key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return base64.b64encode(hashlib.sha256(der).digest()).decode()

    def open(self, payload: str, signature: str) -> bytes:
        """Return the payload of an envelope, both given as base64, if this key signed it.

        Raises ValueError when either is not base64, VerificationError when the signature is not this key's.
        """
        key = SSlibKey.from_crypto(self.key)
        # The id is the key's own, whatever the bundle says: the library matches signatures and keys by it.
        row = {"keyid": key.keyid, "sig": signature}
        envelope = Envelope.from_dict({"payload": payload, "payloadType": PAYLOAD_TYPE, "signatures": [row]})
        envelope.verify([key], 1)
        return envelope.payload


class Signer(CryptoSigner):
    """A private key that signs the same data the same way each time (RFC 6979), so a statement signed twice is stored once."""

    def __init__(self, key: PrivateKey) -> None:
        super().__init__(key)
        self._key = key

    def __repr__(self) -> str:
        return "Signer(...)"

    @property
    def verifier(self) -> Verifier:
        """The public key that belongs to it."""
        return Verifier(self._key.public_key())

    def sign(self, payload: bytes) -> Signature:
        """Sign data."""
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return super().sign(payload)
        try:
            signature = self._key.sign(payload, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        except UnsupportedAlgorithm:  # OpenSSL before 3.2
            return super().sign(payload)
        return Signature(self.public_key.keyid, signature.hex())


def key_text(pem_or_file: str, what: str) -> str:
    """Return the text of a key given as PEM or as `@file`. Raises InputsInvalid."""
    if not pem_or_file.startswith("@"):
        return pem_or_file
    path = pem_or_file[1:]
    try:
        return Path(path).read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not a text file"
        raise InputsInvalid(f"{what}: {path}: {reason}", "name a PEM file") from error


def _label(pem: str, what: str) -> str:
    """Return the label of a PEM text. Raises InputsInvalid when it is not PEM, or cut short."""
    labels = [label for label in _BEGIN.findall(pem) if label != _PARAMETERS]
    if not labels:
        raise InputsInvalid(f"{what} is not PEM: it has no line -----BEGIN ...-----", f"give {KINDS}; {CREATE_KEY}")
    if f"-----END {labels[0]}-----" not in pem:
        raise InputsInvalid(f"{what} is cut short: its last line, -----END {labels[0]}-----, is missing", "give the whole file")
    return str(labels[0])


def _supported(key: object, what: str) -> None:
    curve = getattr(key, "curve", None)
    if isinstance(key, (ed25519.Ed25519PrivateKey, ed25519.Ed25519PublicKey)) or isinstance(curve, ec.SECP256R1):
        return
    kind = f"on the curve {curve.name}" if isinstance(curve, ec.EllipticCurve) else f"a {type(key).__name__.lstrip('_')}"
    raise InputsInvalid(f"{what} is {kind}, which is not supported", f"use {KINDS}; {CREATE_KEY}")


def signer(pem: SecretStr) -> Signer:
    """Parse a private key, PKCS#8 or SEC 1, without a password. Raises InputsInvalid, which never shows the key."""
    text = pem.get_secret_value().strip() + "\n"
    label = _label(text, SIGNING_KEY)
    if "PRIVATE KEY" not in label:
        raise InputsInvalid(f"{SIGNING_KEY} is a {label.lower()}, not a private key", f"give {KINDS}; {CREATE_KEY}")
    if "ENCRYPTED" in label or "Proc-Type: 4,ENCRYPTED" in text:
        fix = "remove its password (`openssl pkcs8 -in key.pem -out signing.pem`) and store it as a secret"
        if "COSIGN" in label or "SIGSTORE" in label:
            fix = f"cosign's own key files are always encrypted; {CREATE_KEY}"
        raise InputsInvalid(f"{SIGNING_KEY} is encrypted", fix)
    try:
        key = serialization.load_pem_private_key(text.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputsInvalid(f"{SIGNING_KEY} cannot be read: its content is damaged", f"give {KINDS}; {CREATE_KEY}") from error
    _supported(key, SIGNING_KEY)
    return Signer(key)  # type: ignore[arg-type]  # checked by _supported


def verifier(pem: str) -> Verifier:
    """Parse a public key (`torchrelay attest --print-public-key`). Raises InputsInvalid."""
    text = pem.strip() + "\n"
    label = _label(text, VERIFY_KEY)
    if label != "PUBLIC KEY":
        fix = "give the public key, which `torchrelay attest --print-public-key` prints"
        raise InputsInvalid(f"{VERIFY_KEY} is a {label.lower()}, not a public key", fix)
    try:
        key = serialization.load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputsInvalid(f"{VERIFY_KEY} cannot be read: its content is damaged", "give the whole PEM file") from error
    _supported(key, VERIFY_KEY)
    return Verifier(key)  # type: ignore[arg-type]  # checked by _supported


def verifiers(pems: str) -> tuple[Verifier, ...]:
    """Parse one public key or several in one text, so that an old and a new key count while keys are exchanged.

    Raises InputsInvalid.
    """
    blocks = _BLOCK.findall(pems)
    if len(blocks) > MOST_KEYS:
        raise InputsInvalid(
            f"{VERIFY_KEY} holds {len(blocks)} keys, more than {MOST_KEYS}", "remove those that sign nothing any more"
        )
    if len(blocks) > 1 and (rest := _BLOCK.sub("", pems).strip()):
        raise InputsInvalid(
            f"{VERIFY_KEY} has text between its keys, {shown(rest, 60)}", "give whole PEM blocks, one after the other"
        )
    return tuple(verifier(block) for block in blocks) if len(blocks) > 1 else (verifier(pems),)


def seal(payload: bytes, key: Signer) -> bytes:
    """Sign an in-toto statement and return it as a bundle."""
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(key)
    document = envelope.to_dict()
    document["signatures"] = [{"sig": row["sig"]} for row in document["signatures"]]
    return canonical(
        {
            "mediaType": BUNDLE_TYPE,
            "verificationMaterial": {"publicKey": {"hint": key.verifier.hint}},
            "dsseEnvelope": document,
        }
    )


def unseal(bundle: bytes, *keys: Verifier) -> dict[str, Any]:
    """Return the statement of a bundle, parsed from exactly the bytes that one of the keys signed. Raises NotAttested."""
    document = json_object(bundle, "the bundle")
    envelope = document.get("dsseEnvelope")
    if document.get("mediaType") != BUNDLE_TYPE or not isinstance(envelope, dict):
        raise NotAttested("it is not a Sigstore bundle 0.3 with a DSSE envelope")
    signatures = envelope.get("signatures")
    if envelope.get("payloadType") != PAYLOAD_TYPE:
        raise NotAttested("its payload is not an in-toto statement")
    if not isinstance(signatures, list) or len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise NotAttested("it does not have exactly one signature")
    payload, signature = envelope.get("payload"), signatures[0].get("sig")
    if not isinstance(payload, str) or not isinstance(signature, str):
        raise NotAttested("its envelope is not base64")
    for key in keys:
        try:
            return json_object(key.open(payload, signature), "the statement")
        except VerificationError:
            continue
        except ValueError as error:
            raise NotAttested("its envelope is not base64") from error
    raise NotAttested("the verify key did not sign it, or its payload was changed")


def json_object(data: bytes, what: str) -> dict[str, Any]:
    """Parse an untrusted JSON object. Raises NotAttested."""
    try:
        document = parse_untrusted(data)
    except ValueError as error:
        raise NotAttested(f"{what} is not JSON") from error
    if not isinstance(document, dict):
        raise NotAttested(f"{what} is not a JSON object")
    return document
