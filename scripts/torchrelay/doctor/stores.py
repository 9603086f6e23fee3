"""What doctor asks of the places that hold files: the weights' source and the registry."""

from torchrelay.core.errors import WeightsMissing
from torchrelay.doctor.finding import Check, Subject, bad, good


def weights(subject: Subject) -> Check | None:
    """Open the weights where model.yaml says they are, and read none of them."""
    from torchrelay.model.weights_lock import read_lock  # noqa: PLC0415
    from torchrelay.weights.checks import refuse_stand_ins  # noqa: PLC0415 -- it brings every source's library
    from torchrelay.weights.sources import Transient, source_of  # noqa: PLC0415
    from torchrelay.weights.sources.file import local_path  # noqa: PLC0415

    if subject.model is None:
        return None
    declared, folder = subject.model.weights, subject.asked.model_dir
    if declared.scheme == "file":
        path = local_path(declared.uri, folder)
        refuse_stand_ins(declared.uri, path)
        return good("weights", f"{path}, {path.stat().st_size} bytes")
    try:
        with source_of(declared.uri).open_stream(declared.uri, 0, "") as stream:
            total = stream.total
    except Transient as error:
        raise WeightsMissing(str(error), "see that the source is well") from error
    locked = read_lock(folder)
    if locked is not None and locked.source == declared.uri and total is not None and total != locked.size:
        return bad(
            "weights",
            f"{declared.uri}: {total} bytes now, weights.lock says {locked.size}",
            "if the change is meant, run `torchrelay fetch --update-lock` and commit weights.lock",
        )
    return good("weights", f"{declared.uri.partition('?')[0]}: {'of unknown size' if total is None else f'{total} bytes'}")


def registry(subject: Subject) -> Check | None:
    """Begin an upload to the repository and cancel it: the registry answers, and a push would be let in."""
    from torchrelay.oci import ecr  # noqa: PLC0415 -- 0.1 s for botocore
    from torchrelay.oci.access import registry_for  # noqa: PLC0415
    from torchrelay.oci.reference import parse_reference  # noqa: PLC0415

    text = subject.asked.repository
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
    return good("registry", f"{reference.name} takes an upload")
