"""Doctor's checks of the places that store files: the source of the weights and the registry."""

from torchrelay.core.errors import WeightsMissing
from torchrelay.doctor.finding import Finding, Subject, bad, good
from torchrelay.model.weights_lock import read_lock
from torchrelay.oci import ecr
from torchrelay.oci.access import registry_for
from torchrelay.oci.reference import parse_reference
from torchrelay.weights.checks import refuse_stand_ins
from torchrelay.weights.sources import Transient, source_of
from torchrelay.weights.sources.file import local_path


def weights(subject: Subject) -> Finding | None:
    """Open the weights at their source without reading them."""
    if subject.model is None or "weights" in subject.mistakes:
        return None
    declared, folder = subject.model.weights, subject.options.model_dir
    if declared.scheme == "file":
        path = local_path(declared.uri, folder)
        refuse_stand_ins(declared.uri, path)
        return good("weights", f"{path}, {path.stat().st_size} bytes")
    try:
        with source_of(declared.uri).open_stream(declared.uri, 0, "") as stream:
            total = stream.total
    except Transient as error:
        raise WeightsMissing(str(error), "check that the weights' host is reachable") from error
    locked = read_lock(folder)
    if locked is not None and locked.covers(declared.uri) and total is not None and total != locked.size:
        return bad(
            "weights",
            f"{declared.uri}: now {total} bytes, but weights.lock has {locked.size}",
            "if the change is intended, run `torchrelay fetch --update-lock` and commit weights.lock",
        )
    return good("weights", f"{declared.uri.partition('?')[0]}: {'of unknown size' if total is None else f'{total} bytes'}")


def registry(subject: Subject) -> Finding | None:
    """Start an upload to the repository and cancel it: this shows that the registry responds and would accept a push."""
    text = subject.options.repository
    if not text:
        return None
    if text.endswith("/"):
        text += subject.model.name if subject.model else "model"
    reference = parse_reference(text, "latest")
    if ecr.is_ecr(reference.host) and not ecr.repository_exists(reference.host, reference.repository):
        return bad(
            "registry",
            f"{reference.name} does not exist in ECR",
            f"`aws ecr create-repository --repository-name {reference.repository}`, or push with --create-repository",
        )
    registry_for(reference).try_upload(reference.repository)
    return good("registry", f"{reference.name} accepts uploads")
