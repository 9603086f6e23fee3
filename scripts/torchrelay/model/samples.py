"""Samples: requests with the answers that a model must give before it is deployed.

`samples/NAME.json` holds one sample. Or a pair of files: `NAME.request.png` is the body, its extension the content
type, `NAME.expected.json` the answer (or `NAME.expected.txt`), and `NAME.compare.json`, when there is one, how to
compare: the keys of `expect` without the answer, and `latency_ms`.
"""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from torchrelay.core.errors import ModelInvalid, Problem
from torchrelay.core.text import printable, shown
from torchrelay.model.files import UnusableFile, inside, regular
from torchrelay.model.json_document import parse, parse_value
from torchrelay.model.model import Model
from torchrelay.model.sample_file import RECORD, Compare, CompareFile, Expect, ExpectPart, Kind, Request, Sample, SampleFile
from torchrelay.model.validation import explain
from torchrelay.model.yaml_document import Document, decode, read_bytes

__all__ = ["CONTENT_TYPES", "Expect", "Sample", "load_samples"]

MAX_SAMPLE_BYTES = 64 << 20
MAX_SAMPLES = 1000

CONTENT_TYPES = {
    ".json": "application/json",
    ".txt": "text/plain",
    ".csv": "text/csv",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
    ".webp": "image/webp",
    ".tiff": "image/tiff",
    ".wav": "audio/wav",
    ".npy": "application/x-npy",
}
BINARY = "application/octet-stream"

_PAIR = re.compile(r"(?P<name>.+)\.(?P<role>request|expected|compare)(?P<suffix>\.[A-Za-z0-9]+)")
_HINTS = {"request": 'write {"request": {"json": ...}, "expect": {"json": ...}}'}


def load_samples(model_dir: Path, model: Model, *, unrecorded: bool = False) -> list[Sample]:
    """Every sample, by name. `unrecorded` lets samples without an expected answer through, for `record` to fill.

    Raises:
        ModelInvalid: with the mistakes of all samples.
    """
    try:
        folder = inside(model_dir, model.samples)
        if not folder.is_dir():
            raise UnusableFile("is not a folder")
    except UnusableFile as error:
        fix = "put a request with its expected answer there, or run `torchrelay init` for an example"
        raise ModelInvalid([Problem(printable(model.samples), None, "samples", str(error), fix)]) from error
    reader = _Reader(model_dir, model, unrecorded)
    try:
        reader.read_folder(folder)
    except OSError as error:
        problem = Problem(printable(model.samples), None, "samples", f"cannot be read: {error.strerror}")
        raise ModelInvalid([problem]) from error
    if reader.problems:
        raise ModelInvalid(reader.problems)
    return sorted(reader.samples, key=lambda sample: sample.name)


class _Reader:
    """Collects samples and problems of one folder."""

    def __init__(self, model_dir: Path, model: Model, unrecorded: bool) -> None:
        self.model_dir = model_dir
        self.folder = model.samples
        self.max_body = model.max_body_mb << 20
        self.unrecorded = unrecorded
        self.samples: list[Sample] = []
        self.problems: list[Problem] = []

    def read_folder(self, folder: Path) -> None:
        names = sorted(child.name for child in folder.iterdir() if not child.name.startswith("."))
        for name in names:
            if not name.isprintable():
                self._refuse(name, None, "", "is not a legal file name", "rename it")
        names = [name for name in names if name.isprintable()]
        pairs = {match["name"] for name in names if (match := _PAIR.fullmatch(name))}
        single = [name for name in names if name.endswith(".json") and not _PAIR.fullmatch(name)]
        if len(single) + len(pairs) > MAX_SAMPLES:
            self._refuse("", None, "", f"holds more than {MAX_SAMPLES} samples")
            return
        bodies = {file.request.body_file for name in single if (file := self._peek(name))}
        for name in single:
            if name not in bodies:
                self._guard(self._read_single, name)
        for name in sorted(pairs):
            self._guard(
                self._read_pair,
                name,
                [match for file in names if (match := _PAIR.fullmatch(file)) and match["name"] == name],
            )
        self._check_whole()

    def _check_whole(self) -> None:
        seen: dict[str, Sample] = {}
        for sample in self.samples:
            if sample.name in seen:
                self._refuse(Path(sample.file).name, 1, "", f"has the same name as {seen[sample.name].file}", "rename one")
            seen[sample.name] = sample
        if not self.samples and not self.problems:
            self._refuse("", None, "samples", "holds no sample", "add NAME.json with a request and its expected answer")
        elif not self.problems and all(sample.expect.status != 200 for sample in self.samples):
            fix = "add one that the model answers: readiness is verified with it"
            self._refuse("", None, "samples", "holds no sample that expects status 200", fix)

    def _refuse(self, name: str, line: int | None, field: str, message: str, fix: str = "") -> None:
        path = f"{self.folder}/{name}" if name else self.folder
        self.problems.append(Problem(printable(path), line, field, message, fix))

    def _guard(self, read: Callable[..., None], *arguments: Any) -> None:
        try:
            read(*arguments)
        except ModelInvalid as error:
            self.problems += error.problems

    def _bytes(self, name: str, limit: int = MAX_SAMPLE_BYTES) -> bytes:
        try:
            path = regular(self.model_dir, f"{self.folder}/{name}")
        except UnusableFile as error:
            raise ModelInvalid([Problem(printable(f"{self.folder}/{name}"), None, "", str(error))]) from error
        return read_bytes(path, f"{self.folder}/{name}", limit)

    def _peek(self, name: str) -> SampleFile | None:
        """The file's content if it is a sample: called first, because a JSON file can also be the body of a sample."""
        try:
            document = parse(self._bytes(name), f"{self.folder}/{name}")
            return SampleFile.model_validate(document.value)
        except (ModelInvalid, ValidationError):
            return None

    def _read_single(self, name: str) -> None:
        document = parse(self._bytes(name), f"{self.folder}/{name}")
        problems = list(document.problems)
        try:
            file = SampleFile.model_validate(document.value)
        except ValidationError as error:
            raise ModelInvalid(problems + explain(error, document, SampleFile, _HINTS)) from error
        bodies = [key for key in ("json", "body", "body_file", "body_base64") if key in document.value["request"]]
        if len(bodies) != 1:
            what = f"has {' and '.join(bodies)}" if bodies else "has no body"
            problems.append(document.problem(("request",), what, "write one of json, body, body_file and body_base64"))
        try:
            expect = _expect(document, file.expect, self.unrecorded)
            body, content_type = self._body(document, file.request, bodies[0]) if bodies else (b"", "")
        except ModelInvalid as error:
            raise ModelInvalid(problems + error.problems) from error
        if problems:
            raise ModelInvalid(problems)
        line = document.line(("request",)) or 1
        sample = Sample(name.removesuffix(".json"), body, content_type, expect, file.latency_ms, document.name, line)
        self._add(replace(sample, version=file.version or "", public=file.public))

    def _body(self, document: Document, request: Request, key: str) -> tuple[bytes, str]:
        value = document.value["request"][key]
        if key == "body_file":
            try:
                body = self._bytes(request.body_file or "")
            except ModelInvalid as error:
                message = error.problems[0].message
                problem = document.problem(("request", "body_file"), f"{shown(value)} {message}")
                raise ModelInvalid([problem]) from error
            default = CONTENT_TYPES.get(Path(value).suffix.lower(), BINARY)
        elif key == "body_base64":
            body, default = base64.b64decode(value), BINARY
        elif key == "body" and isinstance(value, str):
            body, default = value.encode("utf-8", "surrogatepass"), "text/plain"
        else:
            body, default = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"), "application/json"
        return body, request.content_type or default

    def _read_pair(self, name: str, files: list[re.Match[str]]) -> None:
        by_role: dict[str, list[str]] = {}
        for match in files:
            by_role.setdefault(match["role"], []).append(match[0])
        for role, names in by_role.items():
            if len(names) > 1:
                self._refuse(names[1], None, "", f"is a second {role} of {shown(name)}, beside {names[0]}", "keep one")
        if "request" not in by_role:
            other = next(iter(by_role.values()))[0]
            self._refuse(other, None, "", f"belongs to no request: there is no {printable(name)}.request.*")
            return
        request = by_role["request"][0]
        body = self._bytes(request)
        sidecar = f"{name}.compare.json"
        compare = CompareFile()
        if "compare" in by_role:
            compare = _sidecar(self._bytes(sidecar), f"{self.folder}/{sidecar}")
        kind, value = self._expected(by_role.get("expected", [None])[0])
        if kind == "missing" and compare.status != 200:
            kind = "status"
        if kind == "missing" and not self.unrecorded:
            self._refuse(request, None, "", "has no expected answer", RECORD)
            return
        content_type = CONTENT_TYPES.get(Path(request).suffix.lower(), BINARY)
        expect = _with(compare, kind, value)
        sample = Sample(name, body, content_type, expect, compare.latency_ms, f"{self.folder}/{request}", 1, public=compare.public)
        self._add(sample)

    def _expected(self, name: str | None) -> tuple[Kind, Any]:
        if name is None:
            return "missing", None
        data = self._bytes(name)
        if name.endswith(".json"):
            return "json", parse_value(decode(data, f"{self.folder}/{name}"), f"{self.folder}/{name}")
        return ("text", decode(data, f"{self.folder}/{name}")) if name.endswith(".txt") else ("bytes", data)

    def _add(self, sample: Sample) -> None:
        if len(sample.body) > self.max_body:
            name = Path(sample.file).name
            self._refuse(
                name,
                sample.line,
                "request",
                f"has a body of {len(sample.body)} bytes, max_body_mb allows {self.max_body}",
            )
        self.samples.append(sample)


def _sidecar(data: bytes, name: str) -> CompareFile:
    document = parse(data, name)
    try:
        compare = CompareFile.model_validate(document.value)
    except ValidationError as error:
        raise ModelInvalid([*document.problems, *explain(error, document, CompareFile, _HINTS)]) from error
    if document.problems:
        raise ModelInvalid(list(document.problems))
    return compare


def _with(compare: Compare, kind: Kind, value: Any) -> Expect:
    mode = compare.compare or "exact"
    return Expect(compare.status, mode, value, compare.atol, compare.rtol, compare.k, kind)


def _expect(document: Document, part: ExpectPart | None, unrecorded: bool) -> Expect:
    """Return what the sample expects. Raises ModelInvalid with the reason why it is not valid."""
    written = document.value.get("expect") or {}
    part = part or ExpectPart()
    answers = [key for key in ("json", "text", "base64") if key in written]
    problems = []
    if len(answers) > 1:
        problems.append(document.problem(("expect",), f"has {' and '.join(answers)}", "keep one"))
    for key, mode in (("atol", "numeric"), ("rtol", "numeric"), ("k", "top_k")):
        if key in written and part.compare != mode:
            path, message = ("expect", key), f"has no meaning without compare: {mode}"
            problems.append(document.problem(path, message, f'add "compare": "{mode}"'))
    if not answers and part.status == 200 and not unrecorded:
        problems.append(document.problem(("expect",), "the sample has no expected answer", RECORD))
    if answers in (["text"], ["base64"]) and part.compare not in (None, "exact"):
        path = ("expect", "compare")
        problems.append(document.problem(path, f"{part.compare} compares JSON only", "write the answer as json"))
    if problems:
        raise ModelInvalid(problems)
    if not answers:
        return _with(part, "missing" if part.status == 200 else "status", None)
    value = written[answers[0]]
    if answers[0] == "base64":
        return _with(part, "bytes", base64.b64decode(value))
    return _with(part, "json" if answers[0] == "json" else "text", value)
