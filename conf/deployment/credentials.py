"""Make what a federation with TLS and node authentication needs: a server certificate and the SuperNodes' keys.

    python conf/deployment/credentials.py trial --num-supernodes 4 --host superlink.example.org --host 192.0.2.7

writes into the folder `trial`:

* `ca.crt`, the certificate authority's certificate, for everybody who connects;
* `server.crt` and `server.key`, the SuperLink's certificate, for the given hosts and this machine, and its private key;
* `supernode-0.pub` and `supernode-0.key`, …, the key pairs of the SuperNodes, in the format of OpenSSH.

A private key (.key) belongs on its own machine alone. That of the certificate authority is not kept, so nobody can make
further certificates with it: for other hosts, make everything anew. With a certificate of a public authority, or of
your organization's, only the SuperNodes' keys are needed.
"""

import argparse
import os
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def make_credentials(folder: Path, num_supernodes: int, hosts: list[str], days: int) -> None:
    """Write certificates and keys into a folder, which must be new or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        sys.exit(f"{folder} is there already, and keys are not replaced: give a new folder, or remove it first.")
    folder.mkdir(parents=True, exist_ok=True)
    authority_key, server_key = _new_key(), _new_key()
    authority_name, server_name = _name("FedBABU certificate authority"), _name(hosts[0] if hosts else THIS_MACHINE[0])
    authority = (
        _certificate(authority_name, authority_name, authority_key, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage_of_authority(), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    server = (
        _certificate(server_name, authority_name, server_key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(_alternative_names([*hosts, *THIS_MACHINE])), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    (folder / "ca.crt").write_bytes(authority.public_bytes(Encoding.PEM))
    (folder / "server.crt").write_bytes(server.public_bytes(Encoding.PEM))
    _write_private(folder / "server.key", server_key, PrivateFormat.PKCS8)
    for number in range(num_supernodes):
        key = _new_key()
        _write_private(folder / f"supernode-{number}.key", key, PrivateFormat.OpenSSH)
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        (folder / f"supernode-{number}.pub").write_bytes(public + f" supernode-{number}\n".encode())


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])  # 64 characters are allowed


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    """A certificate to be signed, valid from an hour ago on, because the clocks of machines differ."""
    begin = datetime.now(UTC) - timedelta(hours=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage_of_authority() -> x509.KeyUsage:
    """To sign certificates, and nothing else."""
    uses = dict.fromkeys(
        (
            "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
            "encipher_only", "decipher_only",
        ),
        False,
    )  # fmt: skip
    return x509.KeyUsage(**uses, key_cert_sign=True, crl_sign=True)


def _alternative_names(hosts: list[str]) -> list[x509.GeneralName]:
    """The hosts as certificates name them: by address or by DNS name."""
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            names.append(x509.IPAddress(ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _write_private(path: Path, key: ec.EllipticCurvePrivateKey, form: PrivateFormat) -> None:
    """Write a private key that only its user can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, form, NoEncryption()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--num-supernodes", type=int, default=4, help="the number of key pairs (default: 4)")
    parser.add_argument(
        "--host", action="append", default=[], help="a DNS name or IP address of the SuperLink; may be repeated"
    )
    parser.add_argument("--days", type=int, default=365, help="how long the certificates are valid (default: 365)")
    given = parser.parse_args()
    make_credentials(given.folder, given.num_supernodes, given.host, given.days)
    print(f"{given.folder} has a server certificate and the keys of {given.num_supernodes} SuperNodes.")
