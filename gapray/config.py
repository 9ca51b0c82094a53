"""Settings, validated by pydantic. Precedence: profile < ``--config`` YAML < ``GAPRAY_SET_*`` environment < flags.

Every setting has a `Role`. The catalogue's keys hash only settings of role `RESULT`, so that changing a limit or a batch size
does not invalidate results.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, Field, ValidationError

from gapray.errors import ConfigError
from gapray.plain_yaml import PlainModel, first_problem, parse_mapping, parse_yaml, read_mapping

ENV_PREFIX = "GAPRAY_SET_"
"""Prefix of environment variables that set settings: `GAPRAY_SET_MASK__MODEL=u2net` equals ``--set mask.model=u2net``."""

WORKER_ENVIRONMENT = (
    "GAPRAY_CACHE",
    "GAPRAY_LOG",
    "GAPRAY_MODELS",
    "GAPRAY_REVISION",
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "TORCH_HOME",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
)
"""Environment variables of the caller that are passed to a cluster's workers, besides settings. Ray's dashboard and API show
their values, so no variable that holds a token, secret or password may be added here."""
HIDDEN = "***"
_PASSWORD = re.compile(r"(postgresql[+\w]*://[^:/@\s]*):[^@\s]*@|(://[^:/?#@\s]*):[^@/\s]*@")
"""SQLAlchemy accepts a slash in a password; in other URLs a slash ends the host."""
_PASSWORD_ITEM = re.compile(r"(?i)([?&](?:password|sslpassword)=)[^&\s]+")

MISSPELT_RATIO = 0.75
"""Minimum similarity of a name to be suggested (`difflib`): `sise` is 0.75 from `size`, `set` is 0.67 from `net`."""

_KEY_PLACEHOLDER = "<product>"
STILL_FORMAT = "2"
SCORE_FORMAT = 2
"""Incremented whenever the same video, photos and settings would get different scores. Format 1 drew left-out views with the
profile's settings."""
VIDEO_FORMAT = 2
"""Incremented whenever the same package, settings and weights would give different frames or files."""

PACKAGE_FORMAT = 2
"""Incremented whenever the same photos and settings would give a different package; part of every settings hash."""


class Role(Enum):
    """What a setting affects."""

    RESULT = "result"
    """Pixels, masks, geometry or scores: part of the keys of all results that depend on it."""
    GATE = "gate"
    """Only what is accepted or passes. Verdicts are re-evaluated from stored scores; nothing is made or scored again."""
    WORK = "work"
    """Only how results are computed, distributed or named. They may differ by rounding."""


_T = TypeVar("_T")
Result = Annotated[_T, Role.RESULT]
Gate = Annotated[_T, Role.GATE]
Work = Annotated[_T, Role.WORK]


class _Settings(PlainModel):
    """Base class of a group of settings.

    The role of all fields is the class keyword ``role``; otherwise each field is annotated with its own. Defining a class with a
    field that has no role raises `TypeError`.
    """

    roles: ClassVar[Mapping[str, Role]] = {}
    """Field -> role, except for nested groups, whose own fields have roles."""

    def __init_subclass__(cls, *, role: Role | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)  # pydantic calls `__pydantic_init_subclass__` once the fields are known

    @classmethod
    def __pydantic_init_subclass__(cls, *, role: Role | None = None, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        roles = {}
        for name, field in cls.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, _Settings):
                continue
            own = next((mark for mark in field.metadata if isinstance(mark, Role)), role)
            if own is None:
                raise TypeError(f"{cls.__name__}.{name} does not say whether it changes results: give it a Role")
            roles[name] = own
        cls.roles = roles

    def results(self) -> dict[str, Any]:
        """Return the settings that affect results, as plain data to hash."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            name: value.results() if isinstance(value, _Settings) else value
            for name, value in values.items()
            if isinstance(value, _Settings) or self.roles[name] is Role.RESULT
        }

    def computed_as(self, other: Self) -> Self:
        """Return a copy of these settings with every field that does not affect results taken from `other`."""
        changed = {}
        for name in type(self).model_fields:
            own_value, other_value = getattr(self, name), getattr(other, name)
            if isinstance(own_value, _Settings):
                changed[name] = own_value.computed_as(other_value)
            elif self.roles[name] is not Role.RESULT:
                changed[name] = other_value
        return self.model_copy(update=changed)


class DecodeSettings(_Settings):
    """Limits on photos, checked before any pixel is decoded, and the size and quality of the stored reference."""

    max_bytes: Gate[int] = Field(64 * 2**20, gt=0, description="Largest accepted file [bytes].")
    max_pixels: Gate[int] = Field(60_000_000, gt=0, description="Largest accepted width x height [pixels].")
    max_icc_bytes: Gate[int] = Field(4 * 2**20, gt=0, description="Largest accepted colour profile [bytes].")
    min_side: Gate[int] = Field(64, ge=16, description="Smallest accepted shorter side [pixels].")
    reference_side: Result[int] = Field(
        1024, ge=64, le=4096, description="Maximum longer side of the stored reference [pixels]."
    )
    reference_quality: Result[int] = Field(95, ge=1, le=100, description="JPEG quality of the stored reference.")


class MaskSettings(_Settings, role=Role.RESULT):
    """Segmentation of the product."""

    model: str = Field("u2netp", description="Card of a rembg network.")
    backdrop_key: bool = Field(
        True, description="Refine the outline by the colour of a plain backdrop where it agrees with the network."
    )
    cleanup: bool = Field(True, description="Keep the largest component and fill pinholes.")
    max_hole_share: float = Field(0.002, ge=0, le=1, description="Holes up to this fraction of the product are filled.")
    min_share: float = Field(
        0.01, ge=0, lt=1, description="A mask that covers a smaller fraction of the image rejects the product."
    )
    max_share: float = Field(
        0.95, gt=0, le=1, description="A mask that covers a larger fraction of the image rejects the product."
    )


class DepthSettings(_Settings, role=Role.RESULT):
    """Relative depth of each pixel, on one scale for the whole capture set."""

    model: str = Field("hull", description="`hull` (visual hull of the silhouettes, no weights) or a depth card.")
    elevation_deg: float = Field(15.0, ge=-30, le=60, description="`hull` only: the camera's elevation [degrees].")
    work_side: int = Field(518, ge=14, multiple_of=14, description="Longer side of the networks' input [pixels].")


class CannySettings(_Settings, role=Role.RESULT):
    """Edge maps by controlnet-aux's CannyDetector."""

    low_threshold: int = Field(100, ge=0, le=255, description="Lower hysteresis threshold [grey levels].")
    high_threshold: int = Field(200, ge=0, le=255, description="Upper hysteresis threshold [grey levels].")


class IdentitySettings(_Settings, role=Role.RESULT):
    """The 512 appearance features of the identity embedding."""

    model: str = Field("colour-gradient-512", description="`colour-gradient-512` (no weights) or a CLIP card.")


class PackagingSettings(_Settings):
    """Everything that decides what a GAP package contains."""

    decode: DecodeSettings = DecodeSettings()
    mask: MaskSettings = MaskSettings()
    depth: DepthSettings = DepthSettings()
    canny: CannySettings = CannySettings()
    identity: IdentitySettings = IdentitySettings()

    def digest(self, revisions: Mapping[str, str]) -> str:
        """Hash these settings and the weights they name.

        Args:
            revisions: Model name -> sha256 of its weights, or a version for models without weights.

        Returns:
            64 hex digits.
        """
        return canonical_hash({"format": PACKAGE_FORMAT, "settings": self.results(), "models": dict(revisions)})


class OrbitSettings(_Settings, role=Role.RESULT):
    """Geometry, camera and engine of the turntable's frames."""

    frames: int = Field(24, ge=1, le=360, description="Frames of one turn, in equal steps from 0 degrees.")
    size: int = Field(512, ge=64, le=2048, multiple_of=8, description="Side of the square frame [pixels].")
    framing: Literal["product", "photo"] = Field(
        "product", description="`product` centres the turning product; `photo` keeps the photos' own framing."
    )
    margin: float = Field(0.1, ge=0, lt=0.5, description="Minimum empty border around the product [half frames].")
    background: str = Field("#ffffff", pattern="^#[0-9a-fA-F]{6}$", description="Colour behind the product.")
    voxels: int = Field(144, ge=32, le=320, description="Voxels along each side of the visual hull.")
    fuse_depth: bool = Field(True, description="Carve concavities by a depth network's maps where views agree on them.")
    flow: bool = Field(True, description="Align re-projected photos by optical flow.")
    refine_camera: bool = Field(
        True, description="Fit the camera to the photos' colours as well as to their outlines; takes seconds more."
    )
    engine: Literal["auto", "synthesis", "morph", "flow", "nearest"] = Field(
        "auto",
        description="What draws the in-between frames; `auto` compares all but the morph on held-out photos and takes the best.",
    )

    @property
    def background_rgb(self) -> tuple[int, int, int]:
        """`background` as red, green and blue, 0 … 255."""
        red, green, blue = bytes.fromhex(self.background[1:])
        return red, green, blue


class AnimateDiffSettings(_Settings):
    """SD 1.5 + AnimateDiff + ControlNet + IP-Adapter. Every refinement can be switched off, for ablations."""

    base: Result[str] = Field("stable-diffusion-v1-5", description="Card of the SD 1.5 pipeline.")
    motion: Result[str] = Field("mm-sd-v15-v2", description="Card of the motion module.")
    controlnets: Result[tuple[str, ...]] = Field(
        ("controlnet-depth-sd15",), description="Cards of the ControlNets: depth first, optionally canny second."
    )
    ip_adapter: Result[str | None] = Field("ip-adapter-plus-sd15", description="Card of the IP-Adapter; null = none.")
    scheduler: Result[Literal["ddim", "lcm", "euler-lightning"]] = Field(
        "ddim", description="Noise schedule and solver."
    )
    prompt: Result[str] = Field(
        "a product photo on a plain white background, studio light", description="Prompt of all frames."
    )
    negative_prompt: Result[str] = Field(
        "blurry, deformed, text artefacts, extra parts", description="Negative prompt; used only if guidance > 1."
    )
    steps: Result[int] = Field(25, ge=1, le=200, description="Denoising steps at strength 1.")
    guidance: Result[float] = Field(
        7.5, ge=1, le=30, description="Classifier-free guidance scale; 1 = off, which halves the work."
    )
    control_scale: Result[tuple[float, ...]] = Field((1.0,), description="Conditioning scale of each ControlNet.")
    control_end: Result[float] = Field(
        1.0, ge=0, le=1, description="Fraction of the steps after which the ControlNets stop."
    )
    ip_scale: Result[float] = Field(0.8, ge=0, le=2, description="Scale of the IP-Adapter.")
    start: Result[Literal["morph", "noise"]] = Field("morph", description="What denoising starts from.")
    strength: Result[float] = Field(
        0.5, gt=0, le=1, description="With start `morph`: fraction of the steps that are run; 1 = from pure noise."
    )
    view_blend: Result[bool] = Field(
        True, description="Condition each frame on its own two nearest photos instead of one photo for all frames."
    )
    key_frames: Result[bool] = Field(True, description="Hold captured angles to their photos at every step.")
    release: Result[float] = Field(
        0.15, ge=0, le=1, description="Fraction of the steps, at the end, over which key frames are released."
    )
    shared_keys: Result[bool] = Field(True, description="Self-attention also attends to the two nearest key frames.")
    shared_below: Result[int] = Field(
        32, ge=1, description="Largest side of the layers in which keys are shared [latent pixels]."
    )
    shared_gain: Result[float] = Field(1.0, gt=0, description="Weight of the key frames' keys against a frame's own.")
    roll: Result[bool] = Field(
        True, description="Roll the frames' positional encoding at each step, so that the loop closes."
    )
    composite: Result[bool] = Field(
        True, description="Composite captured pixels over generated ones where they are reliably visible."
    )
    decode_chunk: Work[int] = Field(24, ge=1, description="Frames decoded at once; halved when memory runs out.")
    compile: Work[bool] = Field(False, description="Compile the UNet and the ControlNets by torch.compile.")


class VideoSettings(_Settings, role=Role.RESULT):
    """Everything that determines a video's frames, except orbit settings and seed."""

    backend: Literal["morph", "animatediff"] = Field("morph", description="What draws the frames.")
    animatediff: AnimateDiffSettings = AnimateDiffSettings()

    def digests(
        self, orbit: OrbitSettings, preset: str, revisions: Mapping[str, str], product_keys: Sequence[str], seed: int
    ) -> list[str]:
        """Return the keys of videos; each covers the package, all settings and weights that draw it, the preset and the seed.

        Args:
            orbit: Orbit settings of the frames.
            preset: Name of the export preset.
            revisions: Model name -> hash of its weights.
            product_keys: Keys of the packages, hexadecimal.
            seed: Random seed.

        Returns:
            One key of 64 hex digits for each of `product_keys`.
        """
        used = {name: value for name, value in self.results().items() if name in ("backend", self.backend)}
        shared = {
            "format": VIDEO_FORMAT,
            "orbit": orbit.results(),
            "video": used,
            "preset": preset,
            "models": dict(revisions),
            "seed": seed,
        }
        # The hashed text differs between packages only in their keys, and there may be millions of them: serialise it once. The
        # placeholder with its quotes occurs exactly once, because JSON escapes quotes inside strings such as prompts.
        member = '"product":"{}"'
        head, tail = canonical_text(shared | {"product": _KEY_PLACEHOLDER}).split(member.format(_KEY_PLACEHOLDER))
        return [hashlib.sha256(f"{head}{member.format(key)}{tail}".encode()).hexdigest() for key in product_keys]


class SdxlSettings(_Settings):
    """SDXL + two ControlNets + IP-Adapter. With all refinements off it equals diffusers' own pipeline."""

    base: Result[str] = Field("stable-diffusion-xl-1.0", description="Card of the SDXL pipeline.")
    controlnets: Result[tuple[str, ...]] = Field(
        ("controlnet-depth-sdxl", "controlnet-canny-sdxl"), description="Cards of the ControlNets: depth, then canny."
    )
    ip_adapter: Result[str | None] = Field("ip-adapter-plus-sdxl", description="Card of the IP-Adapter; null = none.")
    steps: Result[int] = Field(30, ge=1, le=200, description="Denoising steps, DPM++ 2M.")
    guidance: Result[float] = Field(
        5.0, ge=1, le=30, description="Classifier-free guidance scale; 1 = off, which halves the work."
    )
    control_scale: Result[tuple[float, ...]] = Field((0.5, 0.5), description="Conditioning scale of each ControlNet.")
    control_end: Result[tuple[float, ...]] = Field(
        (0.8, 0.8), description="Fraction of the steps after which each ControlNet stops."
    )
    ip_scale: Result[float] = Field(0.6, ge=0, le=2, description="Scale of the IP-Adapter.")
    references: Result[int] = Field(
        3, ge=1, le=8, description="Number of views given to the IP-Adapter, nearest first."
    )
    masked: Result[bool] = Field(True, description="Restrict the IP-Adapter to the product's mask.")
    exact: Result[bool] = Field(
        False, description="Keep the photo's product: hold latents inside the mask and paste its pixels."
    )
    product: Result[str] = Field("a product", description="What prompts call the product.")
    batch: Work[int] = Field(4, ge=1, description="Images of one scene generated at once.")
    compile: Work[bool] = Field(False, description="Compile the UNet and the ControlNets by torch.compile.")


class StillSettings(_Settings):
    """Everything that determines a still, except scene and seed."""

    backend: Result[Literal["composite", "sdxl"]] = Field("composite", description="What draws the scene.")
    megapixels: Result[float] = Field(
        1.0, gt=0, le=1.0, description="Maximum size, at the photo's aspect ratio [2^20 pixels]."
    )
    azimuth_deg: Result[float] = Field(0.0, ge=0, lt=360, description="Azimuth of the view that is shown [degrees].")
    min_same: Gate[float | None] = Field(
        0.05, ge=0, le=1, description="Minimum percentile among real photos of one product, 0 … 1; docs/fidelity.md."
    )
    sdxl: SdxlSettings = SdxlSettings()

    def digest(self, revisions: Mapping[str, str]) -> str:
        """Hash these settings and the weights they name; settings of other backends do not count.

        Args:
            revisions: Model name -> hash of its weights.

        Returns:
            64 hex digits.
        """
        used = {name: value for name, value in self.results().items() if name != "sdxl" or self.backend == "sdxl"}
        return canonical_hash({"format": STILL_FORMAT, "stills": used, "models": dict(revisions)})


class GateSettings(_Settings, role=Role.GATE):
    """Thresholds that a video must meet to pass. A null threshold is not checked; an unmeasured number does not fail."""

    max_lpips: float | None = Field(0.2, gt=0, description="Maximum mean LPIPS (alex) at in-between angles.")
    max_worst_lpips: float | None = Field(0.4, gt=0, description="Maximum LPIPS at the worst in-between angle.")
    min_iou: float | None = Field(0.8, ge=0, le=1, description="Minimum mean silhouette IoU at in-between angles.")
    max_flicker: float | None = Field(None, gt=0, description="Maximum flow-warp error, 0 … 1.")
    max_loop_gap: float | None = Field(
        2.5, gt=0, description="Maximum LPIPS of the step that closes the loop over that of the mean step."
    )
    min_span_deg: float | None = Field(
        330.0, ge=0, le=360, description="Minimum part of the turn that is shown [degrees]."
    )


class FidelitySettings(_Settings, role=Role.RESULT):
    """How videos are scored, and the gate that they must pass."""

    net: Literal["alex", "vgg"] = Field("alex", description="Backbone of LPIPS.")
    size: int = Field(256, ge=64, le=1024, description="Side of the compared images [pixels]; the literature uses 256.")
    native: bool = Field(True, description="Also measure LPIPS at the video's own size.")
    leave_out: int = Field(
        2,
        ge=1,
        le=16,
        description="Without held-out photos: number of views that are left out in turn, redrawn and compared.",
    )
    angle_tolerance_deg: float = Field(
        2.5, ge=0, le=15, description="Maximum distance in angle between a held-out photo and its frame [degrees]."
    )
    baselines: bool = Field(True, description="Also score nearest view, cross-fade, flow morph and front view only.")
    gate: GateSettings = GateSettings()


class CheckSettings(_Settings, role=Role.GATE):
    """Thresholds for accepting a photo (`gapray capture check`); calibrated in docs/capture.md."""

    max_azimuth_deg: float = Field(7.0, gt=0, le=90, description="Maximum distance from the nominal angle [degrees].")
    max_blur: float = Field(0.6, gt=0, le=1, description="Maximum blur; 0 = sharp, 1 = no detail left to blur.")
    max_softer: float = Field(1.5, ge=1, description="Maximum blur relative to the set's median.")
    max_burnt: float = Field(0.25, ge=0, le=1, description="Maximum fraction of the product that is overexposed.")
    max_black: float = Field(0.5, ge=0, le=1, description="Maximum fraction of the product that is black.")
    max_exposure_ev: float = Field(0.8, gt=0, description="Maximum difference from the set's exposure [stops].")
    max_white_balance: float = Field(0.15, gt=0, description="Maximum relative change of red or blue against green.")
    max_scale: float = Field(
        0.08, gt=0, description="Maximum relative difference in product size, corrected for perspective."
    )
    max_cut: float = Field(0.02, ge=0, le=1, description="Maximum fraction of the photo's border that is product.")
    max_clutter: float = Field(
        0.03, ge=0, le=1, description="Maximum fraction of the backdrop near the product that is edges."
    )
    max_unsure: float = Field(0.75, gt=0, description="Maximum ratio of soft to sharp pixels along the mask's outline.")


class RunSettings(_Settings, role=Role.WORK):
    """How the work is distributed; no result depends on it."""

    executor: Literal["ray_data", "local"] = Field(
        "ray_data",
        description="`local` runs the stages one after another in one process, without Ray: small jobs start seconds sooner.",
    )
    products_per_part: int = Field(
        16, ge=1, description="Products in one part file: what is committed, or lost by a kill, at once."
    )
    products_per_block: int = Field(4, ge=1, description="Products in the input of one task.")
    network_batch: int = Field(32, ge=1, description="Views in one forward pass of a network.")
    mask_workers: int | None = Field(None, ge=1, description="Mask actors; default: by the cluster's CPUs.")
    describe_workers: int | None = Field(
        None, ge=1, description="Depth and identity actors; default: 2 per GPU, or by the cluster's CPUs."
    )
    videos_per_part: int = Field(4, ge=1, description="Videos in one part of `videos`.")
    render_workers: int | None = Field(
        None, ge=1, description="Render actors; default: by the cluster's GPUs, or one per 2 CPUs."
    )
    generators_on_cpu: bool = Field(
        False, description="Without a GPU, run generators that need one on CPUs: minutes per frame."
    )
    decode_workers: int | None = Field(
        None, ge=1, description="Concurrent decode tasks; default: by the cluster's CPUs."
    )
    encode_workers: int | None = Field(None, ge=1, description="Encode actors; default: by the cluster's CPUs.")
    device_gb: float = Field(80.0, gt=0, description="Memory of one GPU of the cluster, for planning [GB].")
    max_cpus: int | None = Field(None, ge=1, description="Logical CPUs that an autoscaling cluster may grow to.")
    max_gpus: int | None = Field(None, ge=0, description="GPUs that an autoscaling cluster may grow to.")
    wait_for_nodes_s: float = Field(
        1800.0, ge=0, description="Longest wait for the first nodes of an autoscaling cluster [s]."
    )
    no_progress_s: float | None = Field(
        14_400.0,
        gt=0,
        description="A run without progress for this long ends, even if it waits for spot nodes [s]; null = never.",
    )
    part_bytes: int = Field(
        256 * 2**20,
        ge=2**20,
        description="Size at which a part of `views` ends; the last product in it is completed [bytes].",
    )
    cpu_hour_price: float | None = Field(
        None, ge=0, description="Price of one logical CPU per hour, for the run record."
    )
    gpu_hour_price: float | None = Field(None, ge=0, description="Price of one GPU per hour, for the run record.")


class Profile(_Settings, role=Role.WORK):
    """A named set of models and settings: one YAML file in `gapray/profiles`."""

    name: str = Field(description="File name without its suffix.")
    description: str = Field(description="One sentence for `gapray models list`.")
    packaging: PackagingSettings = PackagingSettings()
    orbit: OrbitSettings = OrbitSettings()
    video: VideoSettings = VideoSettings()
    stills: StillSettings = StillSettings()
    fidelity: FidelitySettings = FidelitySettings()
    check: CheckSettings = CheckSettings()
    run: RunSettings = RunSettings()


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Select the environment variables that are passed to workers: `WORKER_ENVIRONMENT` and settings, except URLs with a password."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if (name in WORKER_ENVIRONMENT or name.startswith(ENV_PREFIX)) and value == without_password(value)
    }


def without_password(url: str) -> str:
    """Return a URL with its password replaced by ``***``; unchanged if it has none."""
    return _PASSWORD_ITEM.sub(rf"\1{HIDDEN}", _PASSWORD.sub(rf"\1\2:{HIDDEN}@", url))


def canonical_hash(value: object) -> str:
    """Return the SHA-256 of `canonical_text`, as 64 hex digits."""
    return hashlib.sha256(canonical_text(value).encode()).hexdigest()


def canonical_text(value: object) -> str:
    """Serialise `value` to JSON with sorted keys, identically for equal data on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def profile_names() -> list[str]:
    """Return the names of the profiles that ship with gapray, sorted."""
    folder = resources.files("gapray") / "profiles"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_profile(
    name: str = "classic",
    *,
    config_file: str | Path | None = None,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Profile:
    """Load a profile and apply a configuration file, the environment and overrides to it, in this order.

    Args:
        name: One of `profile_names()`.
        config_file: YAML with any of the profile's fields; groups of `packaging` may be at top level, as in `overrides`.
        overrides: Items such as ``mask.model=u2net``; the prefix ``packaging.`` is optional.
        environment: Variables to read instead of `os.environ`.

    Raises:
        ConfigError: `profile.unknown` or `config.invalid`.
    """
    if name not in profile_names():
        raise ConfigError("profile.unknown", f"there is no profile {name!r}; profiles: {', '.join(profile_names())}")
    text = (resources.files("gapray") / "profiles" / f"{name}.yaml").read_text()
    data: dict[str, Any] = {"name": name} | parse_mapping(text, f"profile {name}")
    if config_file is not None:
        data = _merge(data, _with_packaging_group(read_mapping(Path(config_file)), str(config_file)))
    for key, value in sorted((os.environ if environment is None else environment).items()):
        if key.startswith(ENV_PREFIX):
            _assign(data, key.removeprefix(ENV_PREFIX).lower().split("__"), value, key)
    _assign_all(data, overrides)
    try:
        return Profile.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(
                "config.invalid", f"there is no setting {_short_name(where)}{_suggestion(where)}"
            ) from error
        raise ConfigError("config.invalid", f"setting {first_problem(error)}") from error


def with_flags(overrides: Sequence[str] | None, flags: Mapping[str, tuple[str, str | int | None]]) -> list[str]:
    """Add flags that set settings to the items of ``--set``.

    Args:
        overrides: Items of ``--set``.
        flags: Dotted name of a setting -> its flag and the flag's value, None if it was not given.

    Raises:
        ConfigError: `config.invalid` if a flag and ``--set`` give one setting different values.
    """
    data: dict[str, Any] = {}
    items = list(overrides or ())
    _assign_all(data, items)
    for name, (flag, value) in flags.items():
        if value is None:
            continue
        for other in _values_at(data, name.split(".")):
            if other != value:
                raise ConfigError(
                    "config.invalid", f"{name} has two values, {value} by {flag} and {other} by --set; give one of them"
                )
        items.append(f"{name}={value}")
    return items


def _values_at(data: Any, path: list[str]) -> list[Any]:
    """Return the value at a path in nested mappings, in a list; empty if there is none."""
    for key in path:
        if not isinstance(data, dict) or key not in data:
            return []
        data = data[key]
    return [data]


def _suggestion(where: str) -> str:
    """Suggest the setting whose name is closest to a misspelt one, preferring settings of the same group."""
    parent, _, wrong = where.rpartition(".")
    names = sorted(_dotted_names(Profile), key=lambda name: name.rpartition(".")[0] != parent)
    last_parts = [name.rpartition(".")[2] for name in names]
    matches = difflib.get_close_matches(wrong, last_parts, 1, cutoff=MISSPELT_RATIO)
    return f"; did you mean {_short_name(names[last_parts.index(matches[0])])}?" if matches else ""


def _short_name(name: str) -> str:
    return name.removeprefix("packaging.")


def _dotted_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the dotted names of all settings of a model, nested groups included."""
    names = []
    for name, field in model.model_fields.items():
        names.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += _dotted_names(field.annotation, f"{prefix}{name}.")
    return names


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _with_packaging_group(settings: dict[str, Any], path: str) -> dict[str, Any]:
    """Move groups of `packaging` that a config file has at top level into `packaging`.

    Raises:
        ConfigError: `config.invalid` for a group that is in both places.
    """
    top_level = {name: value for name, value in settings.items() if name in PackagingSettings.model_fields}
    nested = settings.get("packaging") or {}
    if not top_level or not isinstance(nested, dict):
        return settings
    if duplicates := sorted(top_level.keys() & nested.keys()):
        raise ConfigError("config.invalid", f"{path}: {duplicates[0]} stands in `packaging` and outside of it")
    rest = {name: value for name, value in settings.items() if name not in top_level}
    return rest | {"packaging": {**nested, **top_level}}


def _assign_all(data: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set the settings of all items of ``--set``."""
    for item in overrides:
        path, equals, value = item.partition("=")
        if not equals:
            raise ConfigError("config.invalid", f"--set {item!r} is not of the form name.field=value")
        _assign(data, path.strip().split("."), value, f"--set {item}")


def _assign(data: dict[str, Any], path: list[str], value: str, origin: str) -> None:
    """Set one setting by its dotted path; `origin` names the flag or variable in errors."""
    if path[0] not in ("packaging", "orbit", "video", "stills", "fidelity", "check", "run"):
        path = ["packaging", *path]
    for key in path[:-1]:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise ConfigError("config.invalid", f"{origin}: {key} is no group of settings")
    data[path[-1]] = parse_yaml(value, origin)
