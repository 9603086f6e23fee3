"""Signed statements: DSSE envelopes (secure-systems-lab/dsse 1.0) in Sigstore bundles 0.3, which cosign reads as well.

One signature, one key that the verifier was given: what a bundle says of its own key is not looked at.
"""

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from pydantic import SecretStr

from torchrelay.core.errors import InputsInvalid, NotAttested
from torchrelay.oci.image import canonical

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
SIGNING_KEY, VERIFY_KEY = "the signing key", "the verify key"
MAKE_ONE = "make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out signing.pem`"
KINDS = "an ECDSA P-256 or Ed25519 key"

_BEGIN = re.compile(r"^-----BEGIN ([A-Z0-9 ]+)-----\s*$", re.MULTILINE)
_PARAMETERS = "EC PARAMETERS"  # what `openssl ecparam -genkey` writes before the key

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

    def holds(self, signature: bytes, data: bytes) -> bool:
        """Tell whether the key signed this."""
        try:
            if isinstance(self.key, ed25519.Ed25519PublicKey):
                self.key.verify(signature, data)
            else:
                self.key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class Signer:
    """A private key; shown and compared by nothing that holds it."""

    key: PrivateKey

    def __repr__(self) -> str:
        return "Signer(...)"

    @property
    def verifier(self) -> Verifier:
        """The public key that belongs to it."""
        return Verifier(self.key.public_key())

    def sign(self, data: bytes) -> bytes:
        """Sign; the same data gives the same signature (RFC 6979), so that a statement signed twice is one statement."""
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return self.key.sign(data)
        try:
            return self.key.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        except UnsupportedAlgorithm:  # an OpenSSL before 3.2
            return self.key.sign(data, ec.ECDSA(hashes.SHA256()))


def key_text(given: str, what: str) -> str:
    """Return a key that is given as PEM, or as `@file`. Raises InputsInvalid."""
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no text"
        raise InputsInvalid(f"{what}: {given[1:]}: {reason}", "name a PEM file") from error


def _label(pem: str, what: str) -> str:
    """Return what a PEM text says it is. Raises InputsInvalid when it is none, or cut short."""
    labels = [label for label in _BEGIN.findall(pem) if label != _PARAMETERS]
    if not labels:
        raise InputsInvalid(f"{what} is not PEM: it has no line -----BEGIN ...-----", f"give {KINDS}; {MAKE_ONE}")
    if f"-----END {labels[0]}-----" not in pem:
        raise InputsInvalid(f"{what} is cut short: its last line, -----END {labels[0]}-----, is missing", "give all of the file")
    return str(labels[0])


def _supported(key: object, what: str) -> None:
    curve = getattr(key, "curve", None)
    if isinstance(key, (ed25519.Ed25519PrivateKey, ed25519.Ed25519PublicKey)) or isinstance(curve, ec.SECP256R1):
        return
    kind = f"on the curve {curve.name}" if isinstance(curve, ec.EllipticCurve) else f"a {type(key).__name__.lstrip('_')}"
    raise InputsInvalid(f"{what} is {kind}, which is not supported", f"take {KINDS}; {MAKE_ONE}")


def signer(pem: SecretStr) -> Signer:
    """Read a private key, PKCS#8 or SEC 1, without a password. Raises InputsInvalid, which never shows the key."""
    text = pem.get_secret_value().strip() + "\n"
    label = _label(text, SIGNING_KEY)
    if "PRIVATE KEY" not in label:
        raise InputsInvalid(f"{SIGNING_KEY} is a {label.lower()}, no private key", f"give {KINDS}; {MAKE_ONE}")
    if "ENCRYPTED" in label or "Proc-Type: 4,ENCRYPTED" in text:
        fix = "give it without a password (`openssl pkcs8 -in key.pem -out signing.pem`), kept as a secret"
        if "COSIGN" in label or "SIGSTORE" in label:
            fix = f"cosign's own key files are always encrypted: {MAKE_ONE}"
        raise InputsInvalid(f"{SIGNING_KEY} is encrypted", fix)
    try:
        key = serialization.load_pem_private_key(text.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputsInvalid(f"{SIGNING_KEY} cannot be read: its content is damaged", f"give {KINDS}; {MAKE_ONE}") from error
    _supported(key, SIGNING_KEY)
    return Signer(key)  # type: ignore[arg-type]  # _supported has seen to it


def verifier(pem: str) -> Verifier:
    """Read a public key (`torchrelay attest --print-public-key`). Raises InputsInvalid."""
    text = pem.strip() + "\n"
    label = _label(text, VERIFY_KEY)
    if label != "PUBLIC KEY":
        fix = "give the public one: `torchrelay attest --print-public-key` prints it"
        raise InputsInvalid(f"{VERIFY_KEY} is a {label.lower()}, no public key", fix)
    try:
        key = serialization.load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputsInvalid(f"{VERIFY_KEY} cannot be read: its content is damaged", "give all of the PEM file") from error
    _supported(key, VERIFY_KEY)
    return Verifier(key)  # type: ignore[arg-type]  # as above


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return what is signed: the pre-authentication encoding (dsse protocol.md)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(payload: bytes, key: Signer) -> bytes:
    """Return an in-toto statement signed and packed as a bundle."""
    signature = base64.b64encode(key.sign(pae(PAYLOAD_TYPE, payload))).decode()
    return canonical(
        {
            "mediaType": BUNDLE_TYPE,
            "verificationMaterial": {"publicKey": {"hint": key.verifier.hint}},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": signature}],
            },
        }
    )


def unseal(bundle: bytes, key: Verifier) -> dict[str, Any]:
    """Return the statement of a bundle, read from the very bytes that the signature holds for. Raises NotAttested."""
    document = json_object(bundle, "the bundle")
    envelope = document.get("dsseEnvelope")
    if document.get("mediaType") != BUNDLE_TYPE or not isinstance(envelope, dict):
        raise NotAttested("it is no Sigstore bundle 0.3 with a DSSE envelope")
    signatures = envelope.get("signatures")
    if envelope.get("payloadType") != PAYLOAD_TYPE:
        raise NotAttested("its payload is no in-toto statement")
    if not isinstance(signatures, list) or len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise NotAttested("it has not exactly one signature")
    payload, signature = _decoded(envelope.get("payload")), _decoded(signatures[0].get("sig"))
    if not key.holds(signature, pae(PAYLOAD_TYPE, payload)):
        raise NotAttested("its signature is not of the verify key, or its payload was changed")
    return json_object(payload, "the statement")


def json_object(data: bytes, what: str) -> dict[str, Any]:
    """Return a JSON object. Raises NotAttested."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NotAttested(f"{what} is not JSON") from error
    if not isinstance(found, dict):
        raise NotAttested(f"{what} is no JSON object")
    return found


def _decoded(text: object) -> bytes:
    try:
        return base64.b64decode(text if isinstance(text, str) else "?", validate=True)
    except (binascii.Error, ValueError) as error:
        raise NotAttested("its envelope is not base64") from error
