"""Puts the image of a release into the daemon, by loading or pulling it, and checks that it is the verified one."""

from typing import TYPE_CHECKING

import requests

from torchrelay.core.errors import DeployFailed
from torchrelay.core.progress import Progress
from torchrelay.docker import daemon
from torchrelay.docker.container import local_tag
from torchrelay.model.model import Model
from torchrelay.targets.contract import Release

if TYPE_CHECKING:
    from docker import DockerClient


def image_id(client: "DockerClient", model: Model, release: Release, progress: Progress) -> str:
    """Return the daemon's id of the release's image, which is loaded or pulled if it is missing.

    Raises DeployFailed when it is unavailable or not the verified one, DockerUnavailable for a daemon with other ids.
    """
    if daemon.has_image(client, release.digest):
        return release.digest
    daemon.require_config_ids(client)
    if release.image is not None:
        daemon.load(client, release.image, local_tag(model.name, release.image), progress)
        return release.digest
    if not release.reference:
        raise DeployFailed(f"the daemon has no image {release.digest}", "run `torchrelay build` and `verify` first")
    try:
        pulled = client.images.pull(release.reference, auth_config=release.auth(release.reference))
    except requests.HTTPError as error:
        reason = getattr(error, "explanation", None) or error
        raise DeployFailed(f"{release.reference} cannot be pulled: {reason}", "push it first, or log in") from error
    if pulled.id != release.digest:
        raise DeployFailed(
            f"the registry has image {pulled.id} at {release.reference}, but the verified image is {release.digest}",
            "push it again",
        )
    return release.digest
