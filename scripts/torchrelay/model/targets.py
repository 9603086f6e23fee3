"""The `targets` of model.yaml: where the model is deployed, with each target's options."""

from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    model_validator,
)

from torchrelay.model import fields

Port = Annotated[int, Field(ge=1, le=65535, description="TCP port of the loopback address of this machine.")]


class Part(BaseModel):
    """A part of model.yaml: unknown keys and other types are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Kubernetes(Part):
    """Options of the target kubernetes."""

    replicas: int = Field(1, ge=1, le=10_000, description="Number of pods.", examples=[3])
    namespace: Annotated[str, AfterValidator(fields.legal_name)] = Field(
        "default",
        description="Namespace to deploy to. It must exist.",
        json_schema_extra={"pattern": f"^{fields.NAME.pattern}$"},
    )
    context: str | None = Field(
        None, min_length=1, description="Context of the kubeconfig. Default: its current context.", examples=["staging"]
    )
    cluster: Annotated[str, AfterValidator(fields.eks_cluster)] | None = Field(
        None,
        description="ARN of an Amazon EKS cluster. Its address and a short-lived token come from AWS, and no kubeconfig is used. "
        "Default: the cluster of the kubeconfig.",
        examples=["arn:aws:eks:eu-west-1:123456789012:cluster/serving"],
        json_schema_extra={"pattern": f"^{fields.EKS_CLUSTER.pattern}$"},
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.cluster and self.context:
            raise fields.refuse("names both a cluster and a context", "a context is for kubeconfigs: remove it")
        return self


class PortTarget(Part):
    """Options of a target on this machine."""

    port: Port = 8080


def _empty(value: Any) -> Any:
    return {} if value is None else value


Free = Annotated[dict[str, Any] | None, BeforeValidator(_empty, json_schema_input_type=dict[str, Any] | None)]


class Targets(Part):
    """The targets that the model is deployed to. The first one is the default of `torchrelay deploy`."""

    kubernetes: Annotated[Kubernetes | None, BeforeValidator(_empty)] = Field(
        None, description="A Kubernetes cluster. Default: not deployed there."
    )
    sagemaker: Free = Field(
        None, description="An Amazon SageMaker endpoint. Not supported yet: options are ignored with a warning."
    )
    lambda_: Free = Field(
        None, alias="lambda", description="An AWS Lambda function. Not supported yet: options are ignored with a warning."
    )
    vertex: Free = Field(None, description="A Google Vertex AI endpoint. Not supported yet: options are ignored with a warning.")
    docker: Annotated[PortTarget, BeforeValidator(_empty, json_schema_input_type=PortTarget | None)] = Field(
        PortTarget(), description="A Docker container on this machine."
    )
    local: Annotated[PortTarget, BeforeValidator(_empty, json_schema_input_type=PortTarget | None)] = Field(
        PortTarget(), description="A process on this machine, without Docker. It does not limit CPU or memory."
    )

    _declared: tuple[str, ...] = PrivateAttr(())

    @model_validator(mode="wrap")
    @classmethod
    def _keep_order(cls, value: Any, make: ModelWrapValidatorHandler[Self]) -> Self:
        targets = make(value)
        if isinstance(value, dict):
            targets._declared = tuple(str(key) for key in value)
        return targets

    @property
    def declared(self) -> tuple[str, ...]:
        """The targets that the file names, in its order."""
        return self._declared
