"""Make the tests' stand-in for debian:bookworm-slim with debootstrap, where no image registry can be reached.

`python -m tests.container.base_image` prints the tag. It holds this machine's CA bundle too, for machines whose packages come
through a proxy of their own; that belongs to the tests' base image alone. The tree is kept in the user's cache folder, so that only
the first run takes its 30 s.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.cache import CACHE, build_lock

SUITE = "bookworm"
TAG = f"torchrelay-test/base:{SUITE}"
BUNDLE = "etc/host-ca-bundle.pem"
CERT_VARIABLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
DROP = (
    "var/cache/apt/archives",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "var/log",
)


def present(tag: str) -> bool:
    """Say whether the daemon has `tag`."""
    return subprocess.run(["docker", "image", "inspect", tag], capture_output=True, check=False).returncode == 0


def host_bundle() -> Path | None:
    """Return this machine's CA bundle: what SSL_CERT_FILE names, or OpenSSL's default."""
    paths = ssl.get_default_verify_paths()
    found = paths.cafile or paths.openssl_cafile
    return Path(found) if found and Path(found).is_file() else None


def apt_sources() -> list[tuple[str, str]]:
    """Return the (address, suite) pairs that this machine's own apt takes Debian's packages from, the suite itself first."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")
    pairs = sorted({(address, suite) for address, _, suite in (line.partition(" ") for line in listed) if suite.startswith(SUITE)})
    found = sorted(pairs, key=lambda pair: pair[1] != SUITE)
    if not found or found[0][1] != SUITE:
        raise SystemExit(f"the container tests take Debian {SUITE} from where this machine's apt does, and it names no such source")
    return found


def build_tree(target: Path) -> None:
    """Fill `target` with a minimal Debian as slim as the official image."""
    if shutil.which("debootstrap") is None:
        raise SystemExit("the container tests need debootstrap to make their base image: apt-get install debootstrap")
    sources = apt_sources()
    subprocess.run(["debootstrap", "--variant=minbase", SUITE, str(target), sources[0][0]], check=True, stdout=sys.stderr)
    for name in DROP:
        shutil.rmtree(target / name, ignore_errors=True)
        (target / name).mkdir(parents=True)
    (target / "var/cache/apt/archives/partial").mkdir()
    lines = "".join(f"deb {address} {suite} main\n" for address, suite in sources)
    (target / "etc/apt/sources.list").write_text(lines, encoding="ascii")


def import_tree(tree: Path, tag: str) -> None:
    """Load `tree` into the daemon as the image `tag`."""
    changes = []
    if bundle := host_bundle():
        shutil.copyfile(bundle, tree / BUNDLE)
        changes = ["--change", "ENV " + " ".join(f"{name}=/{BUNDLE}" for name in CERT_VARIABLES)]
    with subprocess.Popen(["tar", "--numeric-owner", "-C", str(tree), "-c", "."], stdout=subprocess.PIPE) as tar:
        command = ["docker", "import", *changes, "--change", 'CMD ["bash"]', "-", tag]
        subprocess.run(command, stdin=tar.stdout, check=True, stdout=sys.stderr)
        if tar.wait() != 0:
            raise SystemExit(f"tar could not read {tree}")


def ensure_base_image() -> str:
    """Return the tag of the base image; build it first if the daemon lacks it."""
    tree = CACHE / f"base-{SUITE}"
    with build_lock(tree.with_suffix(".lock"), "the tests' base image"):
        if present(TAG):
            return TAG
        if not tree.is_dir():
            with tempfile.TemporaryDirectory(dir=tree.parent, prefix="base-") as scratch:
                fresh = Path(scratch) / "tree"
                build_tree(fresh)
                fresh.rename(tree)
        import_tree(tree, TAG)
    return TAG


if __name__ == "__main__":
    print(ensure_base_image())
