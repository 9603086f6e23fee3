"""What package managers leave in an image, read into names, versions and declared licences: pure parsers, no file is opened."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from urllib.parse import quote

DEP5 = re.compile(r"^Format:\s*https?://\S*copyright-format/1\.0", re.MULTILINE)
LONGEST_NAME = 120  # of a licence: some packages put its whole text there


@dataclass(frozen=True)
class Package:
    """One package; `licences` are as declared, `expression` tells that they are one SPDX expression."""

    name: str
    version: str
    architecture: str = ""
    source: str = ""
    licences: tuple[str, ...] = ()
    expression: bool = False


def dpkg_status(text: str) -> list[Package]:
    """Read /var/lib/dpkg/status: what `dpkg -l` shows as installed (ii); removed packages keep a stanza, and are left out."""
    found = []
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(_fields(stanza))
        if fields.get("Status", "").split()[-1:] != ["installed"] or not {"Package", "Version"} <= fields.keys():
            continue
        name, version = fields["Package"], fields["Version"]
        source, _, other = fields.get("Source", "").partition(" ")
        origin = f"{source or name}@{other.strip('()') or version}"
        found.append(Package(name, version, fields.get("Architecture", ""), "" if origin == f"{name}@{version}" else origin))
    return found


def _fields(stanza: str) -> Iterator[tuple[str, str]]:
    """First lines of a Debian control stanza's fields; continuation lines begin with a space."""
    for line in stanza.splitlines():
        key, colon, value = line.partition(":")
        if colon and key and not key[0].isspace():
            yield key, value.strip()


def debian_licences(text: str) -> tuple[str, ...]:
    """Read a machine-readable debian/copyright (DEP 5): its licences' short names; none from a file of free text."""
    if not DEP5.search(text[:4096]):
        return ()
    names = re.findall(r"^License:[ \t]*(\S[^\n]*)$", text, re.MULTILINE)
    return tuple(sorted({name.strip() for name in names if len(name) <= LONGEST_NAME}))


def python_metadata(text: str) -> Package | None:
    """Read a METADATA file (core metadata 2.x): the SPDX expression, else the classifiers, else a one-line License field."""
    headers = HeaderParser().parsestr(text)
    name, version = str(headers.get("Name") or "").strip(), str(headers.get("Version") or "").strip()
    if not name or not version:
        return None
    if expression := str(headers.get("License-Expression") or "").strip():
        return Package(name, version, licences=(expression,), expression=True)
    classifiers = [str(value) for value in headers.get_all("Classifier") or []]
    declared = {value.rpartition(" :: ")[2] for value in classifiers if value.startswith("License :: ")} - {"OSI Approved"}
    line = str(headers.get("License") or "").strip()
    if not declared and line and "\n" not in line and len(line) <= LONGEST_NAME and line.upper() != "UNKNOWN":
        declared = {line}
    return Package(name, version, licences=tuple(sorted(declared)))


def assignments(text: str) -> dict[str, str]:
    """Read KEY="value" lines: os-release, and the release file of a Java runtime."""
    found = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not key.startswith("#"):
            found[key.strip()] = value.strip().strip("\"'")
    return found


def purl(kind: str, name: str, version: str, namespace: str = "", **qualifiers: str) -> str:
    """Return a package URL (ECMA-427); empty qualifiers are left out."""
    where = f"{quote(namespace, safe='')}/" if namespace else ""
    query = "&".join(f"{key}={quote(value, safe=':')}" for key, value in sorted(qualifiers.items()) if value)
    return f"pkg:{kind}/{where}{quote(name, safe='')}@{quote(version, safe=':')}{'?' if query else ''}{query}"


def pypi_purl(package: Package) -> str:
    """Return a Python package's URL: the name in lower case, with - for _ (the pypi type's rule)."""
    return purl("pypi", package.name.lower().replace("_", "-"), package.version)


def debian_purl(package: Package, distribution: str, release: str) -> str:
    """Return a Debian package's URL; `upstream` names the source package where it differs, as vulnerabilities go by that."""
    distro = f"{distribution}-{release}" if release else ""
    source = package.source.removesuffix(f"@{package.version}")
    return purl("deb", package.name, package.version, distribution, arch=package.architecture, distro=distro, upstream=source)
