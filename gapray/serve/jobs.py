"""What a job is: one request for one product, from acceptance to result. Plain data; `store` keeps it."""

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


class _Wishes(BaseModel):
    """What a client asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_values(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic reads `true` as the number 1."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation not in (bool, bool | None):
            raise ValueError("a truth value is no number")
        return value


class StillWish(_Wishes):
    """What a client asked for of stills alone. None = the profile decides."""

    scene: str | None = Field(None, max_length=64, description="One of the scenes that ship with gapray.")
    count: int = Field(1, ge=1, le=10, description="Pictures, with seeds one after the other.")
    azimuth_deg: float | None = Field(None, ge=0, lt=360, description="Of the view that is shown.")
    product: str | None = Field(None, max_length=200, description="What prompts call the product.")
    exact: bool | None = Field(None, description="Keep the photo's own product, pixel by pixel.")
    format: Literal["png", "jpeg", "webp"] = Field("png", description="Of the files.")
    quality: int = Field(95, ge=0, le=100, description="Of JPEG and WebP.")


_MOST = 10**6
"""Of whole numbers, above every limit of a server: what no arithmetic here fails at."""


class Making(_Wishes):
    """What a client asked for, whatever API it came by. None = the profile decides."""

    product_id: str = Field("product", description="Name of the product.")
    prompt: str | None = Field(None, description="For generators that read one.")
    negative_prompt: str | None = Field(None, description="Likewise.")
    frames: int | None = Field(None, ge=1, le=_MOST, description="Frames of one turn.")
    width: int | None = Field(None, ge=64, le=_MOST, description="Of the video or picture [pixels].")
    height: int | None = Field(None, ge=64, le=_MOST, description="Of the video or picture [pixels].")
    fps: float | None = Field(None, ge=1, le=60, description="Frames a second.")
    seconds: float | None = Field(
        None, gt=0, description="Length of the video; sets the frame rate when that is not given."
    )
    format: Literal["mp4", "gif", "webp"] = Field("mp4", description="Of the video.")
    steps: int | None = Field(None, ge=1, le=_MOST, description="Denoising steps.")
    guidance: float | None = Field(None, ge=1, le=30, description="Classifier-free guidance.")
    control_scale: float | None = Field(None, ge=0, le=2, description="Weight of the depth ControlNet.")
    ip_scale: float | None = Field(None, ge=0, le=2, description="Weight of the photos' adapter.")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="Of whatever is random.")
    score: bool = Field(True, description="Also score the video against the photos.")
    still: StillWish | None = Field(None, description="Of jobs that make pictures, not videos.")


class PhotoSource(BaseModel):
    """A photo that still lies elsewhere."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    azimuth_deg: float | None = None


class JobInput(BaseModel):
    """Where a job's photos are: in the artifact store, or at URLs that its worker fetches."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    capture: str | None = Field(None, description="Artifact: a zip of the photos with a capture.csv.")
    photos: tuple[PhotoSource, ...] = Field((), description="Photos to fetch.")
    manifest_url: str | None = Field(None, description="A prototype's manifest to fetch.")
    package: str | None = Field(None, description="Artifact: a finished package's zip, in place of photos.")
    video: str | None = Field(None, description="Artifact: the video to score.")
    depth: str | None = Field(None, description="Artifact: depth map of the pose that a still shall have.")
    normals: str | None = Field(None, description="Artifact: its normal map.")
    azimuths_by: AzimuthsBy | None = Field(
        None, description="How the photos' azimuths were known; None until they are."
    )
    ignored: dict[str, int] = Field({}, description="What a zip held beside its photos: kind -> number.")
    reading: AzimuthOptions | None = Field(
        None, description="How names are read once it is fetched what lies at the only URL; None = azimuths are known."
    )


@dataclass(frozen=True)
class NewJob:
    """A job that was not yet accepted."""

    owner: str
    api: Api
    kind: Kind
    making: Making
    input: JobInput
    endpoint: str = ""
    """Name in the URL, for RunPod's clients."""
    model: str = ""
    """Name that the client used."""
    idempotency_key: str | None = None
    digest: str = ""
    """Hash of the request; the same idempotency key with another digest is refused."""
    webhook: str | None = None
    timeout_s: float | None = None
    wait_until: float | None = None
    """Not begun by then, it fails [Unix s]."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class Job:
    """A job as the store holds it. Times are Unix seconds."""

    id: str
    owner: str
    api: Api
    kind: Kind
    endpoint: str
    model: str
    status: Status
    stage: str
    progress: int
    making: Making
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
    """Files (name -> size and type), scores, calibration, timings."""

    @property
    def final(self) -> bool:
        """Nothing will change any more."""
        return self.status in FINAL

    @property
    def azimuths_by(self) -> AzimuthsBy | None:
        """How the azimuths of its photos were known; None while they lie in a manifest, zip or package that nobody opened yet."""
        return self.input.azimuths_by or (self.result or {}).get("azimuths_by")

    @property
    def folder(self) -> str:
        """Folder of this attempt's files in the artifact store: a slow older attempt cannot write over a newer one's."""
        return f"results/{self.id}/{self.attempt}"

    @property
    def seconds_queued(self) -> float:
        """Between acceptance and the start of its last attempt."""
        return max(0.0, (self.started_at or self.finished_at or time.time()) - self.created_at)

    @property
    def seconds_running(self) -> float:
        """How long its last attempt has run or ran [s]."""
        return max(0.0, (self.finished_at or time.time()) - self.started_at) if self.started_at else 0.0
