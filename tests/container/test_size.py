"""The size of the runtime image as it travels: every layer gzip'd."""

from tests.container.conftest import cpu_settings
from torchrelay.core.progress import Quiet
from torchrelay.image.runtime import ensure_runtime

LIMIT_MB = 350


def test_the_cpu_image_is_small() -> None:
    sizes = [layer.blob.size / 1e6 for layer in ensure_runtime(cpu_settings(), Quiet()).layers]
    print(f"CPU runtime image, gzip'd: {sum(sizes):.1f} MB in layers of {', '.join(f'{size:.1f}' for size in sizes)} MB")
    assert sum(sizes) < LIMIT_MB, "is this torch's CPU build? TORCHRELAY_WHEELS (a folder) or TORCHRELAY_TORCH_INDEX brings it"
