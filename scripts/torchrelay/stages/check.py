"""Check: finds every mistake in a model directory at once, before anything is fetched or built; runs none of its code."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from torchrelay.core.errors import ModelInvalid, Problem
from torchrelay.core.text import printable, shown
from torchrelay.image import versions
from torchrelay.model import python_source, requirements, server_config
from torchrelay.model.fields import relative_path
from torchrelay.model.files import UnusableFile, files_below, inside, regular, require_content
from torchrelay.model.handlers import file_options, option_problems
from torchrelay.model.model import Loaded, Model, load
from torchrelay.model.outside import OutsideFile, require_allowed
from torchrelay.model.samples import Sample, load_samples
from torchrelay.model.yaml_document import FieldPath, decode, read_bytes
from torchrelay.weights import formats
from torchrelay.weights.scan import problem_of

# Names that archive itself writes at the top of every archive (model-config.yaml too, but that takes in the user's own).
RESERVED = ("torchrelay_service.py", "torchrelay.json", "mar-inf", "torchrelay_handlers")
_SECRET_WORDS = ("SECRET", "TOKEN", "PASSWORD", "PASSWD", "API_KEY", "APIKEY", "ACCESS_KEY", "PRIVATE_KEY", "CREDENTIAL")
_TEXT_LIMIT = 4 << 20


@dataclass(frozen=True)
class Checked:
    """A model directory without mistakes; warnings do not stop anything."""

    model: Model
    samples: list[Sample]
    warnings: list[Problem]

    @property
    def executes_code(self) -> dict[str, str | bool]:
        """For results: the format of weights that execute code when they are loaded; empty for data."""
        weights = self.model.weights
        return {"weights_format": weights.format or "", "executes_code": True} if weights.executes_code else {}


def run(model_dir: Path, *, with_samples: bool = True) -> Checked:
    """Read model.yaml and every file that it names, and by default the samples.

    Raises:
        ModelInvalid: with all problems, those of model.yaml first.
    """
    loaded = load(model_dir)
    check = _Check(model_dir, loaded)
    check.all(with_samples=with_samples)
    if check.problems:
        raise ModelInvalid(check.problems)
    return Checked(check.model, check.samples, check.warnings)


class _Check:
    """One check, collecting problems and warnings."""

    def __init__(self, model_dir: Path, loaded: Loaded) -> None:
        self.dir = model_dir
        self.document = loaded.document
        self.model = loaded.model
        self.bad = loaded.bad
        self.problems = list(loaded.problems)
        self.warnings: list[Problem] = []
        self.samples: list[Sample] = []
        self._extra: list[tuple[FieldPath, str]] = []
        self._sources: list[python_source.PythonSource] = []
        self.ignored: list[str] = []  # keys that the handler's kind does not use
        self._server = server_config.ServerConfigFile()
        self._others: list[versions.OtherVersion] = []

    def all(self, *, with_samples: bool) -> None:
        steps: dict[str, Callable[[], None]] = {
            "weights": self._weights,
            "handler": self._handler,
            "handler_args": self._handler_args,
            "model_file": self._model_file,
            "requirements": self._requirements,
            "versions": self._versions,
            "environment": self._environment,
            "resources": self._resources,
            "targets": self._targets,
        }
        self._server_config()  # from here on its values count as the model's
        for field, step in steps.items():
            if field not in self.bad:
                step()
        self._extra_files()
        self._collisions()
        self._left_behind()
        # problems of model.yaml come first, from top to bottom, then those of other files
        self.problems.sort(key=lambda problem: (problem.file != self.document.name, problem.line or 0))
        if with_samples and "samples" not in self.bad:
            self._samples()

    def _say(self, path: FieldPath, message: str, fix: str = "") -> None:
        self.problems.append(self.document.problem(path, message, fix))

    def _warn(self, path: FieldPath, message: str, fix: str = "") -> None:
        self.warnings.append(self.document.problem(path, message, fix))

    def _file(self, path: FieldPath, relative: str) -> bytes | None:
        """Return the content of a file that the field at `path` names; None, with a problem, when it cannot be read."""
        try:
            return read_bytes(regular(self.dir, relative), relative, _TEXT_LIMIT)
        except UnusableFile as error:
            self._say(path, f"{shown(relative)} {error}")
            return None
        except ModelInvalid as error:
            self.problems += error.problems
            return None

    def _weights(self) -> None:
        weights = self.model.weights
        path: FieldPath = ("weights", "uri") if isinstance(self.document.value.get("weights"), dict) else ("weights",)
        if weights.scheme != "file":
            return
        relative = weights.inside
        try:
            file = regular(self.dir, relative) if relative else _outside(weights.uri, self.dir)
        except OutsideFile as error:
            self._say(path, f"{shown(weights.uri)} {error}", error.fix)
            return
        except UnusableFile as error:
            fix = "put the file there, or write its s3://, https:// or hf:// address" if "not exist" in str(error) else ""
            self._say(path, f"{shown(weights.uri)} {error}", fix)
            return
        if file.stat().st_size == 0:
            self._say(path, f"{shown(weights.uri)} is empty", "save the weights again, or fetch them again")
        elif wrong := formats.problem(file, weights):
            self._say(("weights", "format") if weights.format else ("weights",), *(printable(text, 4096) for text in wrong))
        elif self.model.handler_file is None and (hostile := problem_of(weights.uri, file)):
            self._say(path, *hostile)
        elif relative is None:
            self._warn(path, f"{shown(weights.uri)} exists only on this machine", "put it into the model directory, or on s3://")

    def _handler(self) -> None:
        if (file := self.model.handler_file) is None:
            return
        source = self._source(("handler",), file)
        if source is None:
            return
        self.problems += python_source.handler_problems(source, self.model.handler_attribute)
        self.ignored = python_source.ignored_fields(source)
        for field in self.ignored:
            if self.document.value.get(field):
                fix = "remove it; shipped handlers and `handler_factory` use it"
                self._warn((field,), f"is ignored: {shown(file)} loads its network itself", fix)

    def _handler_args(self) -> None:
        if "handler" in self.bad or "handler_args" in self.ignored:
            return
        for option, message, fix in option_problems(self.model.handler, self.model.handler_args):
            self._say(("handler_args", option), message, fix)
        for option, value in file_options(self.model.handler, self.model.handler_args).items():
            path = ("handler_args", option)
            try:
                relative = relative_path(value)
            except ValueError as error:
                self._say(path, str(error))
                continue
            data = self._file(path, relative)
            if data is not None and not data.strip():
                self._say(path, f"{shown(value)} is empty", "write one name per line")

    def _source(self, path: FieldPath, file: str) -> python_source.PythonSource | None:
        data = self._file(path, file)
        if data is None:
            return None
        try:
            source = python_source.read(data, file)
        except ModelInvalid as error:
            self.problems += error.problems
            return None
        self._sources.append(source)
        return source

    def _model_file(self) -> None:
        model = self.model
        if model.model_file is None:
            if model.init_args and model.handler_file is None:
                self._say(
                    ("init_args",), "needs a model_file whose init_function takes these arguments", "write `model_file: model.py`"
                )
            return
        source = self._source(("model_file",), model.model_file)
        if source is None or "init_args" in self.bad:
            return
        for argument, problem in python_source.network_problems(source, model.init_args):
            if argument is None:
                self.problems.append(problem)
            else:
                where = f"{problem.message} ({problem.file}:{problem.line})"
                self._say(("init_args", argument), where, problem.fix)

    def _requirements(self) -> None:
        name = self.model.requirements
        if name is None or (data := self._file(("requirements",), name)) is None:
            return
        try:
            problems, warnings = requirements.problems(decode(data, name), name)
        except ModelInvalid as error:
            problems, warnings = error.problems, []
        self.problems += problems
        self.warnings += warnings

    def _versions(self) -> None:
        if not self.bad & {"name", "version", "default_version"}:
            self._others, wrong = versions.read_versions(self.dir, self.model)
            for index, message, fix in wrong:
                self._say(("default_version",) if index is None else ("versions", index), message, fix)

    def _environment(self) -> None:
        for name, value in self.model.environment.items():
            if value and any(word in name.upper() for word in _SECRET_WORDS):
                path = ("environment", name)
                self._warn(
                    path, "looks like a secret, and everyone with access to the image can read it", "let the platform inject it"
                )

    def _resources(self) -> None:
        if self.model.resources.gpu and self.model.device == "cpu" and "device" not in self.bad:
            self._say(("resources", "gpu"), f"asks for {self.model.resources.gpu}, but device is cpu", "write `device: gpu`")

    def _targets(self) -> None:
        targets = self.model.targets
        for name, options in (("sagemaker", targets.sagemaker), ("lambda", targets.lambda_), ("vertex", targets.vertex)):
            if options:
                self._warn(("targets", name), "is not supported yet: its options are ignored", "remove them")
        written = self.document.value.get("resources")
        limits = [key for key in ("cpu", "memory") if isinstance(written, dict) and key in written]
        if limits and targets.declared == ("local",):
            self._warn(("resources", limits[0]), "is ignored by the target local, which limits neither CPU nor memory", "remove it")

    def _server_config(self) -> None:
        try:
            self._server = server_config.read(self.dir)
        except ModelInvalid as error:
            self.problems += error.problems
        self.model, problems = server_config.applied(self.model, self._server, self.document)
        self.problems += problems

    def _extra_files(self) -> None:
        """Check the list as written, not the model's: entries beside a wrong one are checked too."""
        written = self.document.value.get("extra_files")
        for index, value in enumerate(written if isinstance(written, list) else []):
            path: FieldPath = ("extra_files", index)
            try:
                relative = relative_path(self.document.texts.get(path, value))
            except (ValueError, TypeError, AttributeError):
                continue  # reported with the other problems of model.yaml
            try:
                file = inside(self.dir, relative)
                if file.is_dir():
                    self._folder(path, relative)
                    continue
                require_content(file)
            except UnusableFile as error:
                self._say(path, f"{shown(relative)} {error}")
            else:
                self._extra.append((path, relative))

    def _folder(self, path: FieldPath, relative: str) -> None:
        count = 0
        for name, problem in files_below(self.dir, relative):
            count += 1
            if problem:
                self._say(path, f"{shown(name)} {problem}")
            elif not name.isprintable():
                self._say(path, f"{shown(name)} is not a legal file name", "rename it")
            else:
                self._extra.append((path, name))
        if count == 0:
            self._say(path, f"{shown(relative)} is an empty folder", "remove it from the list, or put files there")

    def _collisions(self) -> None:
        """Reject two files with one name, on any file system; handler, network and requirements are at the archive's top."""
        taken: dict[str, str] = {}
        for path, source, name in self._named():
            folded = name.casefold()
            if folded.split("/")[0] in RESERVED:
                self._say(path, f"{shown(source)} has a name that is reserved in the archive", "rename it")
            elif (other := taken.setdefault(folded, source)) != source:
                relation = (
                    "differs only in case from"
                    if PurePosixPath(other).name != PurePosixPath(source).name
                    else "gets the same name as"
                )
                self._say(path, f"{shown(source)} {relation} {shown(other)} in the archive", "rename one")
            elif path[0] == "extra_files" and source in self._listed_before(path):
                self._say(path, f"{shown(source)} is listed twice", "keep one")
        self.problems += server_config.collisions(self._server, taken, RESERVED)

    def _listed_before(self, path: FieldPath) -> set[str]:
        return {name for other, name in self._extra if other[1] < path[1]}  # type: ignore[operator] # the second part of these paths is a list index

    def _named(self) -> Iterator[tuple[FieldPath, str, str]]:
        """Yield field, path in the model directory and name in the archive of every file that the model names."""
        model = self.model
        top: list[tuple[str, str | None]] = [
            ("handler", model.handler_file),
            ("model_file", model.model_file),
            ("requirements", model.requirements),
        ]
        for field, file in top:
            if file is not None and field not in self.bad:
                yield (field,), file, PurePosixPath(file).name
        if "weights" not in self.bad:
            yield ("weights",), model.weights.inside or model.weights.uri, model.weights.filename
        if not self.bad & {"handler", "handler_args"}:
            for option, file in file_options(model.handler, model.handler_args).items():
                yield ("handler_args", option), file, PurePosixPath(file).name
        for path, file in self._extra:
            yield path, file, file

    def _left_behind(self) -> None:
        """Report modules of the model directory that the code imports but the archive lacks."""
        archived = {name.split("/")[0] for name in (*(name for _, _, name in self._named()), *self._server.files)}
        for source in self._sources:
            for module, line in source.imports.items():
                for name in (f"{module}.py", module):
                    local = self.dir / name
                    if name not in archived and (local.is_file() if name.endswith(".py") else local.is_dir()):
                        message = f"imports {module}, but {name} is not in the archive"
                        self.problems.append(Problem(source.name, line, "", message, f"list {name} in extra_files"))

    def _samples(self) -> None:
        try:
            self.samples = load_samples(self.dir, self.model)
        except ModelInvalid as error:
            known = {str(problem) for problem in self.problems}
            self.problems += [problem for problem in error.problems if str(problem) not in known]
        declared = [self.model.version] if self.model.version else []
        known_versions = [*declared, *(one.version for one in self._others)]
        for sample in self.samples:
            if sample.version and sample.version not in known_versions:
                fix = (
                    f"write one of {', '.join(known_versions)}"
                    if known_versions
                    else "list the archive of that version in model.yaml's `versions`"
                )
                missing = f"there is no version {shown(sample.version)} in model.yaml"
                self.problems.append(Problem(printable(sample.file), sample.line, "version", missing, fix))
            if sample.expect.mode == "subset" and sample.expect.value == {} and sample.expect.status == 200:
                message = "expects nothing of the answer, so it always passes"
                fix = "run `torchrelay samples record`, then review the recorded answers"
                self.warnings.append(Problem(printable(sample.file), sample.line, "expect", message, fix))


def _outside(uri: str, model_dir: Path) -> Path:
    """Return the path of weights given by an absolute path or a file:// address. Raises UnusableFile."""
    path = Path(unquote(urlsplit(uri).path)) if uri.lower().startswith("file:") else Path(uri)
    require_allowed(path, model_dir)
    try:
        exists, is_file = path.exists(), path.is_file()
    except (OSError, ValueError) as error:
        raise UnusableFile(f"cannot be read: {getattr(error, 'strerror', None) or 'not a legal path'}") from error
    if not is_file:
        raise UnusableFile("is not a file" if exists else "does not exist")
    require_content(path)
    return path
