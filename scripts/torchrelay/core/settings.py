"""Environment variables without an option: the base of the settings classes, one for each stage or target that has any.

docs/reference/environment.md is generated from their fields. Not read through them:
- the cache's folders (core/paths): every command needs them, and pydantic-settings takes 0.13 s to import;
- the variables of GitHub and of the SDKs: they are read where the provider's protocol is;
- the variables of the image and the handlers: these have only the standard library.
"""

from typing import ClassVar, Self

from pydantic import DirectoryPath, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from torchrelay.core.errors import InputsInvalid
from torchrelay.core.text import shown


class EnvironmentSettings(BaseSettings):
    """Fields read from the environment; an empty variable counts as absent."""

    model_config = SettingsConfigDict(env_prefix="TORCHRELAY_", env_ignore_empty=True, frozen=True)

    read_by: ClassVar[str] = ""
    """The commands or the target that use these settings, for the documentation."""

    @classmethod
    def variable(cls, field: str) -> str:
        """Return the environment variable of a field."""
        return f"{cls.model_config.get('env_prefix', '')}{field}".upper()

    @classmethod
    def read(cls) -> Self:
        """Return the settings of this process. Raises InputsInvalid, which names every wrong variable."""
        try:
            return cls()
        except ValidationError as error:
            wrong = [f"{cls.variable(str(row['loc'][0]))} is {shown(row['input'])}: {row['msg']}" for row in error.errors()]
            raise InputsInvalid("; ".join(wrong), "correct the environment variable, or unset it") from error


class TorchSettings(EnvironmentSettings):
    """Which torch is installed, and from where: for the runtime image and for the local server."""

    read_by = "build, the local target"

    torch_version: str = Field("", description="Version of torch. Default: the one that the runtime's Dockerfile names.")
    torch_index: str = Field(
        "",
        description="Package index with the build of torch to install. "
        "PyTorch's CPU index gives an image of 330 MB instead of gigabytes.",
    )
    wheels: DirectoryPath | None = Field(None, description="Folder of wheels that is searched before the package index.")
