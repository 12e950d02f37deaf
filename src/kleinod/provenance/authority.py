"""Who signs: a certificate authority of one's own, made once, or what the environment names.

    KLEINOD_C2PA_CERTIFICATES   PEM file: the signer's certificate, then its issuers
    KLEINOD_C2PA_KEY            PEM file: its private key, or
    KLEINOD_C2PA_SIGN_COMMAND   a command: the bytes on its stdin, the signature on its stdout
    KLEINOD_C2PA_TRUST          PEM file of authorities that `kleinod verify` trusts, too

The own authority lies in the configuration folder ($KLEINOD_HOME, else kleinod in $XDG_CONFIG_HOME
or ~/.config). Its key is forgotten as soon as it has issued the one certificate, so that nobody can
issue another. It tells pictures of this installation from others; it says nothing about who its
owner is.
"""

import datetime
import os
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kleinod.catalog import config_folder
from kleinod.errors import InputError, KleinodError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

VALID_DAYS = 3650
COMMAND_SECONDS = 60
ORGANISATION = "kleinod, local"


@dataclass(frozen=True)
class Identity:
    """A certificate chain (PEM), the C2PA name of its algorithm, and what signs: key or command."""

    certificates: str
    algorithm: str
    key: str | None = None
    sign: Callable[[bytes], bytes] | None = None


def identity() -> Identity:
    """The configured signer; without one the own authority's, made if it is not there yet."""
    chain, key = os.environ.get("KLEINOD_C2PA_CERTIFICATES"), os.environ.get("KLEINOD_C2PA_KEY")
    command = os.environ.get("KLEINOD_C2PA_SIGN_COMMAND")
    if not chain:
        if key or command:
            raise InputError(
                "KLEINOD_C2PA_CERTIFICATES: is not set, but a key or a command is; set it, too"
            )
        folder = _own_folder()
        return _identity(folder / "certificates.pem", folder / "key.pem", None)
    if bool(key) == bool(command):
        raise InputError(
            "KLEINOD_C2PA_KEY: set either it or KLEINOD_C2PA_SIGN_COMMAND beside the certificates"
        )
    return _identity(Path(chain), Path(key) if key else None, command)


def temporary_identity() -> Identity:
    """A signer that nobody trusts and that is written nowhere, to try out signing."""
    private, _, chain = _new_authority()
    return Identity(chain.decode("ascii"), "es256", key=private.decode("ascii"))


def trusted() -> str:
    """PEM of the authorities that are trusted here; may be empty. Makes nothing."""
    own = config_folder() / "signing" / "authority.pem"
    files = [own] if own.exists() else []
    extra = os.environ.get("KLEINOD_C2PA_TRUST")
    return "".join(_text("KLEINOD_C2PA_TRUST", file) for file in [*files, *_paths(extra)])


def _paths(name: str | None) -> list[Path]:
    return [Path(name)] if name else []


def _identity(chain: Path, key: Path | None, command: str | None) -> Identity:
    certificates = _text("KLEINOD_C2PA_CERTIFICATES", chain)
    algorithm = _algorithm(certificates, chain)
    if command:
        return Identity(certificates, algorithm, sign=_by_command(command, algorithm))
    assert key is not None
    return Identity(certificates, algorithm, key=_text("KLEINOD_C2PA_KEY", key))


def _text(name: str, file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: cannot read {file} ({error}); give a PEM file") from error


def _algorithm(certificates: str, file: Path) -> str:
    """The C2PA name of the signature algorithm of the first certificate's key."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    try:
        public = x509.load_pem_x509_certificate(certificates.encode()).public_key()
    except ValueError as error:
        raise InputError(f"KLEINOD_C2PA_CERTIFICATES: {file} is no PEM certificate") from error
    if isinstance(public, ec.EllipticCurvePublicKey):
        sizes = {256: "es256", 384: "es384", 521: "es512"}
        if public.curve.key_size in sizes:
            return sizes[public.curve.key_size]
    if isinstance(public, ed25519.Ed25519PublicKey):
        return "ed25519"
    if isinstance(public, rsa.RSAPublicKey):
        return "ps256"
    raise InputError(f"KLEINOD_C2PA_CERTIFICATES: {file} has a key that C2PA does not know")


def _by_command(command: str, algorithm: str) -> Callable[[bytes], bytes]:
    def sign(data: bytes) -> bytes:
        words = shlex.split(command)
        try:
            done = subprocess.run(
                words, input=data, capture_output=True, check=True, timeout=COMMAND_SECONDS
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise KleinodError(f"c2pa: the signing command failed ({error})") from error
        return _raw_signature(done.stdout, algorithm)

    return sign


def _raw_signature(signature: bytes, algorithm: str) -> bytes:
    """r and s side by side, as C2PA wants them, where a tool such as openssl gave them in DER."""
    side = {"es256": 32, "es384": 48, "es512": 66}.get(algorithm)
    if side is None or len(signature) == 2 * side:
        return signature
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    try:
        r, s = decode_dss_signature(signature)
        return r.to_bytes(side, "big") + s.to_bytes(side, "big")
    except (ValueError, OverflowError) as error:
        raise KleinodError("c2pa: the signing command gave no signature of its key") from error


def _own_folder() -> Path:
    """The folder of the own authority, which is made whole or not at all."""
    folder = config_folder() / "signing"
    if (folder / "key.pem").exists():
        return folder
    part = folder.with_name(f".signing-{secrets.token_hex(8)}")
    try:
        part.mkdir(parents=True, mode=0o700)
        _write_authority(part)
        try:
            part.rename(folder)
        except OSError:  # another process was faster
            if not (folder / "key.pem").exists():
                raise
    except OSError as error:
        raise InputError(
            f"c2pa: cannot make a certificate in {folder} ({error.strerror}); set $KLEINOD_HOME to "
            "a folder that can be written, or give --c2pa off"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _write_authority(folder: Path) -> None:
    private, root, chain = _new_authority()
    handle = os.open(folder / "key.pem", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(private)
    (folder / "authority.pem").write_bytes(root)
    (folder / "certificates.pem").write_bytes(chain)


def _new_authority() -> tuple[bytes, bytes, bytes]:
    """PEM of a signer's private key, of its authority, and of both their certificates."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _root(root_key)
    leaf = _leaf(key, root, root_key)
    pem = form.Encoding.PEM
    private = key.private_bytes(pem, form.PrivateFormat.PKCS8, form.NoEncryption())
    authority = root.public_bytes(pem)
    return private, authority, leaf.public_bytes(pem) + authority


def _root(key: "ec.EllipticCurvePrivateKey") -> "x509.Certificate":
    from cryptography import x509

    name = _name("kleinod local authority")
    uses = _key_usage(key_cert_sign=True, crl_sign=True)
    return _signed(
        _builder(name, name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(uses, critical=True),
        key,
    )


def _leaf(
    key: "ec.EllipticCurvePrivateKey",
    root: "x509.Certificate",
    root_key: "ec.EllipticCurvePrivateKey",
) -> "x509.Certificate":
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    # the one purpose that every C2PA implementation takes without further settings
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
    return _signed(
        _builder(_name("kleinod local signer"), root.subject, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(purpose, critical=False)
        .add_extension(issuer, critical=False),
        root_key,
    )


def _builder(
    subject: "x509.Name", issuer: "x509.Name", key: "ec.EllipticCurvePublicKey"
) -> "x509.CertificateBuilder":
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _signed(
    builder: "x509.CertificateBuilder", key: "ec.EllipticCurvePrivateKey"
) -> "x509.Certificate":
    from cryptography.hazmat.primitives import hashes

    return builder.sign(key, hashes.SHA256())


def _name(common: str) -> "x509.Name":
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    # told apart from other installations' by a random number, not by a user's or machine's name
    serial = secrets.token_hex(4)
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{common} {serial}"),
        ]
    )


def _key_usage(**allowed: bool) -> "x509.KeyUsage":
    from cryptography import x509

    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: allowed.get(name, False) for name in names})
