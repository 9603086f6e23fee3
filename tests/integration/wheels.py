"""Packages made on the spot, so that pip has something to choose from without an index."""

import io
import zipfile
from pathlib import Path


def wheel(folder: Path, name: str, version: str, needs: str = "") -> Path:
    """The smallest wheel: a module that knows its version."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (f"Requires-Dist: {needs}\n" if needs else "")
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    file = folder / f"{name}-{version}-py3-none-any.whl"
    file.write_bytes(buffer.getvalue())
    return file
