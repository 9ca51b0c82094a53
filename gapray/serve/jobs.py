"""Jobs: one request for one product, from acceptance to result. Plain data; `store` persists it."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from gapray.capture.azimuths import AzimuthOptions, AzimuthsBy

Status = Literal["queued", "running", "completed", "failed", "cancelled"]
FINAL: frozenset[str] = frozenset({"completed", "failed", "cancelled"})
Kind = Literal["video", "package", "score", "image"]
Api = Literal["openai", "runpod", "native"]
STAGES = ("fetch", "package", "render", "encode", "score")


class _Params(BaseModel):
    """Base of the parameters that a client can send."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_values(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse `true` where a number is expected: pydantic would read it as 1."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation not in (bool, bool | None):
            raise ValueError("a truth value is no number")
        return value

    @field_validator("format", mode="before", check_fields=False)
    @classmethod
    def _in_any_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value


class StillParams(_Params):
    """Parameters of a request for stills that videos do not have. None: the profile decides."""

    scene: str | None = Field(None, max_length=64, description="One of the scenes that ship with gapray.")
    count: int = Field(1, ge=1, le=10, description="Number of pictures, with consecutive seeds.")
    azimuth_deg: float | None = Field(None, ge=0, lt=360, description="Azimuth of the view that is shown [degrees].")
    product: str | None = Field(None, max_length=200, description="What prompts call the product.")
    exact: bool | None = Field(None, description="Keep the product's pixels exactly as in the photo.")
    format: Literal["png", "jpeg", "webp"] = Field("png", description="Format of the files.")
    quality: int = Field(95, ge=0, le=100, description="Quality of JPEG and WebP.")


_MAX_INT = 10**6
"""Upper bound of whole numbers: above every limit of a server, and small enough for any arithmetic done with them."""


class GenerationParams(_Params):
    """Parameters of a request, the same for every API. None: the profile decides."""

    product_id: str = Field("product", description="Name of the product.")
    prompt: str | None = Field(None, description="Prompt, for generators that read one.")
    negative_prompt: str | None = Field(None, description="Negative prompt, for generators that read one.")
    frames: int | None = Field(None, ge=1, le=_MAX_INT, description="Frames of one turn.")
    width: int | None = Field(None, ge=64, le=_MAX_INT, description="Width of the video or still [pixels].")
    height: int | None = Field(None, ge=64, le=_MAX_INT, description="Height of the video or still [pixels].")
    fps: float | None = Field(None, ge=1, le=60, description="Frames per second.")
    seconds: float | None = Field(
        None, gt=0, description="Duration of the video [s]; sets the frame rate if that is not given."
    )
    format: Literal["mp4", "gif", "webp"] = Field("mp4", description="Format of the video.")
    steps: int | None = Field(None, ge=1, le=_MAX_INT, description="Denoising steps.")
    guidance: float | None = Field(None, ge=1, le=30, description="Classifier-free guidance.")
    control_scale: float | None = Field(None, ge=0, le=2, description="Weight of the depth ControlNet.")
    ip_scale: float | None = Field(None, ge=0, le=2, description="Weight of the photos' IP-Adapter.")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="Random seed.")
    score: bool = Field(True, description="Also score the video against the photos.")
    still: StillParams | None = Field(None, description="Set for jobs that make stills instead of a video.")


class PhotoSource(BaseModel):
    """A photo to be fetched from a URL."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    azimuth_deg: float | None = None


class JobInput(BaseModel):
    """Where a job's inputs are: in the artifact store, or at URLs that its worker fetches."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    capture: str | None = Field(None, description="Artifact: a zip of the photos with a capture.csv.")
    photos: tuple[PhotoSource, ...] = Field((), description="Photos to fetch.")
    manifest_url: str | None = Field(None, description="URL of a manifest in the prototype's format.")
    package: str | None = Field(None, description="Artifact: a finished package's zip, in place of photos.")
    video: str | None = Field(None, description="Artifact: the video to score.")
    depth: str | None = Field(None, description="Artifact: depth map of the pose requested for a still.")
    normals: str | None = Field(None, description="Artifact: normal map of that pose.")
    azimuths_by: AzimuthsBy | None = Field(
        None, description="How the photos' azimuths were determined; None until they are."
    )
    ignored: dict[str, int] = Field({}, description="Files in a zip that are not its photos: kind -> number.")
    unread: tuple[str, ...] = Field((), description="Names of the request's fields that have no effect.")
    reading: AzimuthOptions | None = Field(
        None,
        description="How to read azimuths from file names once the content of the only URL is fetched; None = azimuths are known.",
    )


@dataclass(frozen=True)
class NewJob:
    """A job that has not been accepted yet. `making` is named like its column."""

    owner: str
    api: Api
    kind: Kind
    making: GenerationParams
    input: JobInput
    endpoint: str = ""
    """Endpoint in the URL, for RunPod's clients."""
    model: str = ""
    """Model name that the client sent."""
    idempotency_key: str | None = None
    digest: str = ""
    """Hash of the request; an idempotency key that comes again with another digest is refused."""
    webhook: str | None = None
    timeout_s: float | None = None
    wait_until: float | None = None
    """The job fails if it has not started by then [Unix s]."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class Job:
    """A job as the store holds it; fields are named like columns. Times are Unix seconds."""

    id: str
    owner: str
    api: Api
    kind: Kind
    endpoint: str
    model: str
    status: Status
    stage: str
    progress: int
    making: GenerationParams
    input: JobInput
    digest: str
    webhook: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    expires_at: float
    attempt: int
    timeout_s: float | None
    error_code: str | None
    error_message: str | None
    result: dict[str, Any] | None
    """Files (name -> size and content type), scores, calibration, timings."""

    @property
    def final(self) -> bool:
        """Whether the job is completed, failed or cancelled."""
        return self.status in FINAL

    @property
    def azimuths_by(self) -> AzimuthsBy | None:
        """How the azimuths of the photos were determined; None until their manifest, zip or package has been opened."""
        return self.input.azimuths_by or (self.result or {}).get("azimuths_by")

    @property
    def folder(self) -> str:
        """This attempt's folder in the artifact store: a slow older attempt cannot overwrite the files of a newer one."""
        return f"results/{self.id}/{self.attempt}"

    @property
    def seconds_queued(self) -> float:
        """Time between acceptance and the start of the last attempt [s]."""
        return max(0.0, (self.started_at or self.finished_at or time.time()) - self.created_at)

    @property
    def seconds_running(self) -> float:
        """Running time of the last attempt so far, or in all once it has finished [s]."""
        return max(0.0, (self.finished_at or time.time()) - self.started_at) if self.started_at else 0.0
