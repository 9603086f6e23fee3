"""Signed statements: the specification's own vector, keys that are refused with the fix, and envelopes that do not count."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from pydantic import SecretStr
from securesystemslib.dsse import Envelope

from tests import messages
from tests.errors import fails
from torchrelay.attestation import dsse
from torchrelay.core.errors import InputsInvalid, NotAttested

PEM = serialization.Encoding.PEM
PKCS8, SEC1 = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL
PLAIN = serialization.NoEncryption()

# The example of protocol.md, secure-systems-lab/dsse 1.0.2.
VECTOR_KEY = 97358161215184420915383655311931858321456579547487070936769975997791359926199
VECTOR_X = 46950820868899156662930047687818585632848591499744589407958293238635476079160
VECTOR_Y = 5640078356564379163099075877009565129882514886557779369047442380624545832820
VECTOR_SIGNATURE = "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="
VECTOR_PAE = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def pem(key: Any, kind: serialization.PrivateFormat = PKCS8, how: serialization.KeySerializationEncryption = PLAIN) -> str:
    return str(key.private_bytes(PEM, kind, how).decode())


def p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def signer(key: Any) -> dsse.Signer:
    return dsse.signer(SecretStr(pem(key)))


def test_the_specifications_vector_is_signed_and_accepted() -> None:
    assert Envelope(b"hello world", "http://example.com/HelloWorld", {}).pae() == VECTOR_PAE
    key = signer(ec.derive_private_key(VECTOR_KEY, ec.SECP256R1()))
    numbers = key.verifier.key.public_numbers()  # type: ignore[union-attr] # its kind is known here
    assert (numbers.x, numbers.y) == (VECTOR_X, VECTOR_Y)
    raw = base64.b64decode(VECTOR_SIGNATURE)
    theirs = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    signature = bytes.fromhex(key.sign(VECTOR_PAE).signature)
    assert decode_dss_signature(signature) == decode_dss_signature(theirs)  # the same nonce: RFC 6979


# Written by the code before securesystemslib, with the key of the vector: a statement signed again must not become another one.
STORED = (
    '{"dsseEnvelope":{"payload":"eyJhIjoxfQ==","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":'
    '"MEQCIEdKu6c5G7MBod7e9P28FBP4ZQZwjEbpdYVVXXQK2DFxAiBNhyapvuS+y70E6iGr9vUR83NwxuYmMaRWQkRwpliZhA=="}]},'
    '"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json",'
    '"verificationMaterial":{"publicKey":{"hint":"95NYAGBWLW/wddgU6mmMKC/Md5sM3mTXn/xjAd8A0Us="}}}'
)


def test_the_bytes_of_a_bundle_are_unchanged() -> None:
    sealed = dsse.seal(b'{"a":1}', signer(ec.derive_private_key(VECTOR_KEY, ec.SECP256R1())))
    assert sealed.decode() == STORED


@pytest.mark.parametrize(("make", "kind"), [(p256, PKCS8), (p256, SEC1), (ed25519.Ed25519PrivateKey.generate, PKCS8)])
def test_a_statement_signed_twice_is_one_statement(make: Callable[[], Any], kind: serialization.PrivateFormat) -> None:
    key = dsse.signer(SecretStr(pem(make(), kind)))
    sealed = dsse.seal(b'{"a":1}', key)
    assert sealed == dsse.seal(b'{"a":1}', key)
    assert dsse.unseal(sealed, dsse.verifier(key.verifier.pem)) == {"a": 1}


def test_a_key_with_its_parameters_before_it_or_windows_line_ends_is_read() -> None:
    text = pem(p256(), SEC1)
    before = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    plain = dsse.signer(SecretStr(text)).verifier.pem
    assert dsse.signer(SecretStr(before + text)).verifier.pem == plain
    assert dsse.signer(SecretStr("\r\n" + text.replace("\n", "\r\n"))).verifier.pem == plain


def encrypted() -> str:
    return pem(p256(), PKCS8, serialization.BestAvailableEncryption(b"secret"))


def damaged() -> str:
    lines = pem(p256()).splitlines()
    return "\n".join([lines[0], "A" * 64, *lines[2:]])


def public() -> str:
    return signer(p256()).verifier.pem


REFUSED_SIGNING_KEYS: dict[str, tuple[Callable[[], str], str, str]] = {
    "nothing": (lambda: " \n", "is not PEM", "openssl genpkey"),
    "base64 alone": (lambda: pem(p256()).splitlines()[1], "is not PEM", "openssl genpkey"),
    "cut short": (lambda: "\n".join(pem(p256()).splitlines()[:-1]), "is cut short", "the whole file"),
    "damaged": (damaged, "content is damaged", "openssl genpkey"),
    "encrypted": (encrypted, "is encrypted", "openssl pkcs8"),
    "encrypted, traditional": (
        lambda: pem(p256(), SEC1, serialization.BestAvailableEncryption(b"secret")),
        "is encrypted",
        "openssl pkcs8",
    ),
    "cosign's own": (
        lambda: encrypted().replace("ENCRYPTED PRIVATE", "ENCRYPTED SIGSTORE PRIVATE"),
        "is encrypted",
        "cosign's own key files",
    ),
    "public": (public, "public key, not a private key", "openssl genpkey"),
    "another curve": (lambda: pem(ec.generate_private_key(ec.SECP384R1())), "on the curve secp384r1", "P-256 or Ed25519"),
    "RSA": (lambda: pem(rsa.generate_private_key(65537, 2048)), "RSAPrivateKey, which is not supported", "P-256 or Ed25519"),
}


@pytest.mark.parametrize("case", REFUSED_SIGNING_KEYS)
def test_a_refused_signing_key_has_a_fix_and_is_not_shown(case: str) -> None:
    make, message, fix = REFUSED_SIGNING_KEYS[case]
    text = make()
    with pytest.raises(InputsInvalid) as caught:
        dsse.signer(SecretStr(text))
    assert message in caught.value.message
    assert fix in caught.value.fix
    assert not any(line in str(caught.value) for line in text.splitlines() if len(line) > 40)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pem(p256()), "is a private key, not a public key"),
        (lambda: public()[:-30], "is cut short"),
        (lambda: public().replace("M", "A"), "content is damaged"),
        (lambda: public().replace("PUBLIC KEY", "CERTIFICATE"), "is a certificate, not a public key"),
        (lambda: "", "is not PEM"),
    ],
)
def test_a_verify_key_is_refused_with_the_reason(make: Callable[[], str], message: str) -> None:
    with pytest.raises(InputsInvalid, match=message):
        dsse.verifier(make())


def test_a_signer_is_not_shown() -> None:
    key = signer(p256())
    assert repr(key) == f"{key}" == "Signer(...)"


def changed(bundle: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    document = json.loads(bundle)
    change(document)
    return json.dumps(document).encode()


def b64(text: bytes) -> str:
    return base64.b64encode(text).decode()


ATTACKS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another payload": (lambda d: d["dsseEnvelope"].update(payload=b64(b'{"a":2}')), "payload was changed"),
    "another type": (lambda d: d["dsseEnvelope"].update(payloadType="text/plain"), "not an in-toto statement"),
    "no signature": (lambda d: d["dsseEnvelope"].update(signatures=[]), "exactly one signature"),
    "two signatures": (lambda d: d["dsseEnvelope"]["signatures"].append({"sig": ""}), "exactly one signature"),
    "an empty signature": (lambda d: d["dsseEnvelope"]["signatures"][0].update(sig=""), "did not sign it"),
    "r = s = 0": (
        lambda d: d["dsseEnvelope"]["signatures"][0].update(sig=b64(encode_dss_signature(0, 0))),
        "did not sign it",
    ),
    "a signature that is not text": (lambda d: d["dsseEnvelope"]["signatures"][0].update(sig=7), "not base64"),
    "a payload that is not text": (lambda d: d["dsseEnvelope"].update(payload=7), "not base64"),
    "a payload that is not base64": (lambda d: d["dsseEnvelope"].update(payload="{}"), "not base64"),
    "no envelope": (lambda d: d.pop("dsseEnvelope"), "not a Sigstore bundle"),
    "another bundle": (lambda d: d.update(mediaType="application/vnd.dev.sigstore.bundle.v0.4+json"), "not a Sigstore bundle"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_changed_envelope_is_refused(attack: str) -> None:
    key = signer(p256())
    sealed = dsse.seal(b'{"a":1}', key)
    assert dsse.unseal(changed(sealed, lambda _: None), key.verifier) == {"a": 1}
    change, message = ATTACKS[attack]
    with pytest.raises(NotAttested, match=message):
        dsse.unseal(changed(sealed, change), key.verifier)


@pytest.mark.parametrize("make", [p256, ed25519.Ed25519PrivateKey.generate])
def test_another_key_of_either_kind_does_not_open_it(make: Callable[[], Any]) -> None:
    sealed = dsse.seal(b"{}", signer(p256()))
    with fails(NotAttested, words=messages.NOT_SIGNED_BY_KEY):
        dsse.unseal(sealed, signer(make()).verifier)


def test_the_key_that_a_bundle_names_is_not_trusted() -> None:
    our_key, theirs = signer(p256()), signer(p256())
    sealed = dsse.seal(b"{}", theirs)
    forged = changed(sealed, lambda d: d["verificationMaterial"]["publicKey"].update(hint=our_key.verifier.hint))
    with pytest.raises(NotAttested):
        dsse.unseal(forged, our_key.verifier)
    assert dsse.unseal(forged, theirs.verifier) == {}


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"mediaType": 7}'])
def test_other_data_than_a_bundle_is_refused(data: bytes) -> None:
    with pytest.raises(NotAttested):
        dsse.unseal(data, signer(p256()).verifier)


def test_the_signature_is_der_over_sha256_as_cosign_checks_it() -> None:
    key = p256()
    envelope = json.loads(dsse.seal(b"{}", signer(key)))["dsseEnvelope"]
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    signed = b"DSSEv1 28 application/vnd.in-toto+json 2 {}"
    key.public_key().verify(signature, signed, ec.ECDSA(hashes.SHA256()))
