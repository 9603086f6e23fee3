"""Parsers of the records that package managers leave in an image: names, versions, declared licences. No file is opened here."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import HeaderParser

from packageurl import PackageURL

DEP5 = re.compile(r"^Format:\s*https?://\S*copyright-format/1\.0", re.MULTILINE)
LONGEST_LICENCE_NAME = 120  # characters: some packages put the whole text there
NAME = re.compile(r"[^\s/]")  # what a name must contain to have a package URL


@dataclass(frozen=True)
class Package:
    """One package; `licences` as declared, `expression`: they are a single SPDX expression."""

    name: str
    version: str
    architecture: str = ""
    source: str = ""
    licences: tuple[str, ...] = ()
    expression: bool = False


def dpkg_status(text: str) -> list[Package]:
    """Parse /var/lib/dpkg/status: the packages that `dpkg -l` shows as installed (ii); removed ones keep a stanza, skipped here."""
    packages = []
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(_fields(stanza))
        if fields.get("Status", "").split()[-1:] != ["installed"] or not {"Package", "Version"} <= fields.keys():
            continue
        name, version = fields["Package"], fields["Version"]
        if not NAME.search(name) or not version:
            continue
        source_name, _, source_version = fields.get("Source", "").partition(" ")
        source = f"{source_name or name}@{source_version.strip('()') or version}"
        packages.append(Package(name, version, fields.get("Architecture", ""), "" if source == f"{name}@{version}" else source))
    return packages


def _fields(stanza: str) -> Iterator[tuple[str, str]]:
    """Yield the first line of each field of a Debian control stanza; continuation lines begin with a space."""
    for line in stanza.splitlines():
        key, colon, value = line.partition(":")
        if colon and key and not key[0].isspace():
            yield key, value.strip()


def debian_licences(text: str) -> tuple[str, ...]:
    """Parse a machine-readable debian/copyright (DEP 5) into its licences' short names; a file of free text has none."""
    if not DEP5.search(text[:4096]):
        return ()
    names = re.findall(r"^License:[ \t]*(\S[^\n]*)$", text, re.MULTILINE)
    return tuple(sorted({name.strip() for name in names if len(name) <= LONGEST_LICENCE_NAME}))


def python_metadata(text: str) -> Package | None:
    """Parse a METADATA file (core metadata 2.x).

    The licence is the SPDX expression, otherwise the classifiers, otherwise a License field of one line.
    """
    headers = HeaderParser().parsestr(text)
    name, version = str(headers.get("Name") or "").strip(), str(headers.get("Version") or "").strip()
    if not NAME.search(name) or not version:
        return None
    if expression := str(headers.get("License-Expression") or "").strip():
        return Package(name, version, licences=(expression,), expression=True)
    classifiers = [str(value) for value in headers.get_all("Classifier") or []]
    declared = {value.rpartition(" :: ")[2] for value in classifiers if value.startswith("License :: ")} - {"OSI Approved"}
    line = str(headers.get("License") or "").strip()
    if not declared and line and "\n" not in line and len(line) <= LONGEST_LICENCE_NAME and line.upper() != "UNKNOWN":
        declared = {line}
    return Package(name, version, licences=tuple(sorted(declared)))


def assignments(text: str) -> dict[str, str]:
    """Parse KEY="value" lines: os-release, and the release file of a Java runtime."""
    values = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not key.startswith("#"):
            values[key.strip()] = value.strip().strip("\"'")
    return values


def purl(kind: str, name: str, version: str, namespace: str = "", **qualifiers: str) -> PackageURL:
    """Return a package URL (ECMA-427), normalized by the rules of its type; empty qualifiers are left out."""
    return PackageURL(kind, namespace or None, name, version, qualifiers)


def pypi_purl(package: Package) -> PackageURL:
    """Return a Python package's URL."""
    return purl("pypi", package.name, package.version)


def debian_purl(package: Package, distribution: str, release: str) -> PackageURL:
    """Return a Debian package's URL; `upstream` names the source package if it differs: vulnerabilities are filed under it."""
    distro = f"{distribution}-{release}" if release else ""
    source = package.source.removesuffix(f"@{package.version}")
    return purl("deb", package.name, package.version, distribution, arch=package.architecture, distro=distro, upstream=source)
