"""Settings of a run: profile < ``--config`` YAML < ``GAPRAY_*`` environment < flags, checked by pydantic.

Every setting has a `Role`. The catalogue's keys hash the settings of role `RESULT` and no others, so that a limit or a batch size
can be changed without making anything anew.
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

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gapray.errors import ConfigError

ENV_PREFIX = "GAPRAY_SET_"
"""`GAPRAY_SET_MASK__MODEL=u2net` is the environment's way to say ``--set mask.model=u2net``."""

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
"""Variables that the workers of a cluster need of the caller's, beside his settings. Everything that Ray is told of them is
shown by its dashboard and its API: no token, secret or password is among them, nor may it be put here."""
HIDDEN = "***"
_PASSWORD = re.compile(r"(postgresql[+\w]*://[^:/@\s]*):[^@\s]*@|(://[^:/?#@\s]*):[^@/\s]*@")
"""SQLAlchemy takes a password with a slash in it; other URLs end their host there."""
_PASSWORD_ITEM = re.compile(r"(?i)([?&](?:password|sslpassword)=)[^&\s]+")

_HOLE = "<product>"
STILL_FORMAT = "2"
SCORE_FORMAT = 2
"""Raised whenever the same video, photos and settings would get other scores. 1 drew left-out views as the profile said."""
VIDEO_FORMAT = 2
"""The same for a video's frames and files."""

PACKAGE_FORMAT = 2
"""Raised whenever the same photos and settings would give another package; part of every settings hash."""


class Role(Enum):
    """What a setting can change."""

    RESULT = "result"
    """Pixels, masks, geometry or scores: part of the keys of all that is made with it."""
    GATE = "gate"
    """Only what is accepted or passes. Verdicts are judged again by their stored numbers; nothing is made or scored again."""
    WORK = "work"
    """Only how results are computed or spread over machines, or what they are called. Rounding may differ."""


_T = TypeVar("_T")
Result = Annotated[_T, Role.RESULT]
Gate = Annotated[_T, Role.GATE]
Work = Annotated[_T, Role.WORK]


class _Settings(BaseModel):
    """A group of settings. A class whose fields all have one role names it; the fields of any other name theirs one by one.

    A field without a role is a `TypeError` when the class is made.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    roles: ClassVar[Mapping[str, Role]] = {}
    """Field -> role; groups of settings are not in it, because their own fields have roles."""

    def __init_subclass__(cls, *, role: Role | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)  # pydantic calls the next method once the fields are known

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
        """The settings that change results, as plain data for a key."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            name: value.results() if isinstance(value, _Settings) else value
            for name, value in values.items()
            if isinstance(value, _Settings) or self.roles[name] is Role.RESULT
        }

    def computed_as(self, other: Self) -> Self:
        """These settings with every field that changes no result taken from `other`."""
        changed = {}
        for name in type(self).model_fields:
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, _Settings):
                changed[name] = mine.computed_as(theirs)
            elif self.roles[name] is not Role.RESULT:
                changed[name] = theirs
        return self.model_copy(update=changed)


class DecodeSettings(_Settings):
    """Limits on a photo, checked on its header before any pixel is decoded, and the size it is kept at."""

    max_bytes: Gate[int] = Field(64 * 2**20, gt=0, description="Largest accepted file [bytes].")
    max_pixels: Gate[int] = Field(60_000_000, gt=0, description="Largest accepted width x height [pixels].")
    max_icc_bytes: Gate[int] = Field(4 * 2**20, gt=0, description="Largest accepted colour profile [bytes].")
    min_side: Gate[int] = Field(64, ge=16, description="Smallest accepted shorter side [pixels].")
    reference_side: Result[int] = Field(
        1024, ge=64, le=4096, description="Longer side of the kept reference at most [pixels]."
    )
    reference_quality: Result[int] = Field(95, ge=1, le=100, description="JPEG quality of the kept reference.")


class MaskSettings(_Settings, role=Role.RESULT):
    """The product's silhouette."""

    model: str = Field("u2netp", description="Card of a rembg network.")
    backdrop_key: bool = Field(
        True, description="Sharpen by the colour of a plain backdrop where it agrees with the network."
    )
    cleanup: bool = Field(True, description="Keep the largest component and fill pin holes.")
    max_hole_share: float = Field(0.002, ge=0, le=1, description="Holes up to this share of the product are filled.")
    min_share: float = Field(
        0.01, ge=0, lt=1, description="A mask with a smaller share of the image rejects the product."
    )
    max_share: float = Field(
        0.95, gt=0, le=1, description="A mask with a larger share of the image rejects the product."
    )


class DepthSettings(_Settings, role=Role.RESULT):
    """Relative nearness of each pixel, on one scale for the whole capture set."""

    model: str = Field("hull", description="`hull` (visual hull of the silhouettes, no weights) or a depth card.")
    elevation_deg: float = Field(15.0, ge=-30, le=60, description="`hull` only: the camera's elevation [degrees].")
    work_side: int = Field(
        518, ge=14, multiple_of=14, description="Longer side of the image given to networks [pixels]."
    )


class CannySettings(_Settings, role=Role.RESULT):
    """Edges by controlnet-aux's CannyDetector."""

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
        """Hash of these settings and of the weights they name.

        Args:
            revisions: Model name -> sha256 of its weights, or a version for what has none.

        Returns:
            64 hex digits.
        """
        return canonical_hash({"format": PACKAGE_FORMAT, "settings": self.results(), "models": dict(revisions)})


class OrbitSettings(_Settings, role=Role.RESULT):
    """Geometry and view morph."""

    frames: int = Field(24, ge=1, le=360, description="Frames of one turn, in equal steps from 0 degrees.")
    size: int = Field(512, ge=64, le=2048, multiple_of=8, description="Side of the square frame [pixels].")
    framing: Literal["product", "photo"] = Field(
        "product", description="`product` centres the turning product; `photo` keeps the photos' own framing."
    )
    margin: float = Field(0.1, ge=0, lt=0.5, description="Empty border round the product at least [half frames].")
    background: str = Field("#ffffff", pattern="^#[0-9a-fA-F]{6}$", description="Colour behind the product.")
    voxels: int = Field(144, ge=32, le=320, description="Resolution of the hull along each side.")
    fuse_depth: bool = Field(True, description="Carve concavities by a depth network's maps where views agree on them.")
    flow: bool = Field(True, description="Align re-projected photos by optical flow.")
    refine_camera: bool = Field(
        True, description="Judge cameras by the photos' colours as well as by their outlines, which takes seconds more."
    )
    engine: Literal["auto", "synthesis", "morph", "flow", "nearest"] = Field(
        "auto",
        description="Draws the frames in between; `auto` lets all but the morph draw photos that are left out and takes the best.",
    )

    @property
    def background_rgb(self) -> tuple[int, int, int]:
        """`background` as numbers."""
        red, green, blue = bytes.fromhex(self.background[1:])
        return red, green, blue


class AnimateDiffSettings(_Settings):
    """SD 1.5 + AnimateDiff + ControlNet + IP-Adapter. Every refinement is a switch, so that an ablation falls out."""

    base: Result[str] = Field("stable-diffusion-v1-5", description="Card of the SD 1.5 pipeline.")
    motion: Result[str] = Field("mm-sd-v15-v2", description="Card of the motion module.")
    controlnets: Result[tuple[str, ...]] = Field(
        ("controlnet-depth-sd15",), description="Cards, depth first; canny may follow."
    )
    ip_adapter: Result[str | None] = Field(
        "ip-adapter-plus-sd15", description="Card of the image adapter; null = none."
    )
    scheduler: Result[Literal["ddim", "lcm", "euler-lightning"]] = Field(
        "ddim", description="Noise schedule and solver."
    )
    prompt: Result[str] = Field(
        "a product photo on a plain white background, studio light", description="Of all frames."
    )
    negative_prompt: Result[str] = Field(
        "blurry, deformed, text artefacts, extra parts", description="Only with guidance > 1."
    )
    steps: Result[int] = Field(25, ge=1, le=200, description="Denoising steps of a full run.")
    guidance: Result[float] = Field(7.5, ge=1, le=30, description="Classifier-free guidance; 1 = none, half the work.")
    control_scale: Result[tuple[float, ...]] = Field((1.0,), description="Weight of each ControlNet.")
    control_end: Result[float] = Field(1.0, ge=0, le=1, description="ControlNet stops after this share of the steps.")
    ip_scale: Result[float] = Field(0.8, ge=0, le=2, description="Weight of the image adapter.")
    start: Result[Literal["morph", "noise"]] = Field("morph", description="What denoising starts from.")
    strength: Result[float] = Field(
        0.5, gt=0, le=1, description="`morph`: share of the steps that is run, 1 = from pure noise."
    )
    view_blend: Result[bool] = Field(
        True, description="Each frame sees its own two nearest photos, not one photo for all."
    )
    key_frames: Result[bool] = Field(True, description="Captured angles are held to their photos at every step.")
    release: Result[float] = Field(
        0.15, ge=0, le=1, description="Share of the steps at the end over which the hold fades."
    )
    shared_keys: Result[bool] = Field(True, description="Self-attention also looks at the two nearest key frames.")
    shared_below: Result[int] = Field(32, ge=1, description="…in layers of at most this side [latent pixels].")
    shared_gain: Result[float] = Field(1.0, gt=0, description="Weight of the key frames' keys against a frame's own.")
    roll: Result[bool] = Field(True, description="Roll the frames' position code each step, so that the loop closes.")
    composite: Result[bool] = Field(
        True, description="Put captured pixels over generated ones where they are surely visible."
    )
    decode_chunk: Work[int] = Field(24, ge=1, description="Frames decoded at once; halved when memory runs out.")
    compile: Work[bool] = Field(False, description="torch.compile UNet and ControlNet.")


class VideoSettings(_Settings, role=Role.RESULT):
    """Everything that decides what a video shows, but for the orbit and the seed."""

    backend: Literal["morph", "animatediff"] = Field("morph", description="What draws the frames.")
    animatediff: AnimateDiffSettings = AnimateDiffSettings()

    def digests(
        self, orbit: OrbitSettings, preset: str, revisions: Mapping[str, str], product_keys: Sequence[str], seed: int
    ) -> list[str]:
        """The keys of videos: each covers its package, everything that draws it, the files it becomes, and the seed.

        Args:
            orbit: Of the frames.
            preset: Name of the export preset.
            revisions: Model name -> hash of its weights.
            product_keys: Keys of packages, hexadecimal; only these differ between the videos.
            seed: Of whatever is random.
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
        # A million packages share all of this text but their own key. With its quotes the member is found once: inside a
        # text, such as a prompt, JSON escapes quotes.
        member = '"product":"{}"'
        head, tail = canonical_text(shared | {"product": _HOLE}).split(member.format(_HOLE))
        return [hashlib.sha256(f"{head}{member.format(key)}{tail}".encode()).hexdigest() for key in product_keys]


class SdxlSettings(_Settings):
    """SDXL + two ControlNets + IP-Adapter. With every refinement off it is diffusers' own pipeline."""

    base: Result[str] = Field("stable-diffusion-xl-1.0", description="Card of the SDXL pipeline.")
    controlnets: Result[tuple[str, ...]] = Field(
        ("controlnet-depth-sdxl", "controlnet-canny-sdxl"), description="Cards: depth first, then canny."
    )
    ip_adapter: Result[str | None] = Field(
        "ip-adapter-plus-sdxl", description="Card of the image adapter; null = none."
    )
    steps: Result[int] = Field(30, ge=1, le=200, description="Denoising steps, DPM++ 2M.")
    guidance: Result[float] = Field(5.0, ge=1, le=30, description="Classifier-free guidance; 1 = none, half the work.")
    control_scale: Result[tuple[float, ...]] = Field((0.5, 0.5), description="Weight of each ControlNet.")
    control_end: Result[tuple[float, ...]] = Field(
        (0.8, 0.8), description="Each ControlNet stops after this share of the steps."
    )
    ip_scale: Result[float] = Field(0.6, ge=0, le=2, description="Weight of the image adapter.")
    references: Result[int] = Field(
        3, ge=1, le=8, description="Views that are shown to the image adapter, nearest first."
    )
    masked: Result[bool] = Field(True, description="The image adapter acts inside the product's mask alone.")
    exact: Result[bool] = Field(
        False, description="Keep the photo's own product: latents inside the mask are held, pixels pasted."
    )
    product: Result[str] = Field("a product", description="What prompts call the product.")
    batch: Work[int] = Field(4, ge=1, description="Pictures of one scene at once.")
    compile: Work[bool] = Field(False, description="torch.compile UNet and ControlNets.")


class StillSettings(_Settings):
    """Everything that decides what a still shows, but for the scene and the seed."""

    backend: Result[Literal["composite", "sdxl"]] = Field("composite", description="What draws the scene.")
    megapixels: Result[float] = Field(
        1.0, gt=0, le=1.0, description="Size at most, in the photo's aspect [2^20 pixels]."
    )
    azimuth_deg: Result[float] = Field(0.0, ge=0, lt=360, description="Of the view that is shown.")
    min_same: Gate[float | None] = Field(
        0.05, ge=0, le=1, description="Gate: share of photos of one product that look less alike; docs/fidelity.md."
    )
    sdxl: SdxlSettings = SdxlSettings()

    def digest(self, revisions: Mapping[str, str]) -> str:
        """Hash of what these settings and the weights they name decide; of backends only the chosen one counts.

        Args:
            revisions: Model name -> hash of its weights.
        """
        used = {name: value for name, value in self.results().items() if name != "sdxl" or self.backend == "sdxl"}
        return canonical_hash({"format": STILL_FORMAT, "stills": used, "models": dict(revisions)})


class GateSettings(_Settings, role=Role.GATE):
    """What a video must reach to pass. A limit that is null is not asked for; a number that was not measured fails nothing."""

    max_lpips: float | None = Field(0.2, gt=0, description="Mean LPIPS (alex) at in-between angles at most.")
    max_worst_lpips: float | None = Field(0.4, gt=0, description="LPIPS at the worst in-between angle at most.")
    min_iou: float | None = Field(0.8, ge=0, le=1, description="Mean silhouette IoU at in-between angles at least.")
    max_flicker: float | None = Field(None, gt=0, description="Flow-warp error at most, 0 … 1.")
    max_loop_gap: float | None = Field(2.5, gt=0, description="Last step against the mean step at most.")
    min_span_deg: float | None = Field(330.0, ge=0, le=360, description="Degrees of the turn that are shown at least.")


class FidelitySettings(_Settings, role=Role.RESULT):
    """How videos are scored, and what is good enough."""

    net: Literal["alex", "vgg"] = Field("alex", description="Trunk of LPIPS.")
    size: int = Field(256, ge=64, le=1024, description="Side of the compared images [pixels]; 256 is the literature's.")
    native: bool = Field(True, description="Also LPIPS at the video's own size.")
    leave_out: int = Field(
        2,
        ge=1,
        le=16,
        description="Without hidden photos: how many views are left out in turn, drawn anew and compared.",
    )
    angle_tolerance_deg: float = Field(
        2.5, ge=0, le=15, description="A hidden photo is compared with a frame at most this far from its angle."
    )
    baselines: bool = Field(True, description="Also score nearest view, cross-fade, flow morph and front view only.")
    gate: GateSettings = GateSettings()


class CheckSettings(_Settings, role=Role.GATE):
    """What a photo must reach to be taken as it is (`gapray capture check`); calibrated in docs/capture.md."""

    max_azimuth_deg: float = Field(7.0, gt=0, le=90, description="A photo may lie so far from its angle [degrees].")
    max_blur: float = Field(0.6, gt=0, le=1, description="0 = sharp, 1 = nothing is left to blur.")
    max_softer: float = Field(1.5, ge=1, description="…and so many times the set's median at most.")
    max_burnt: float = Field(0.25, ge=0, le=1, description="Share of the product that is burnt out at most.")
    max_black: float = Field(0.5, ge=0, le=1, description="Share of the product that is black at most.")
    max_exposure_ev: float = Field(0.8, gt=0, description="Difference from the set's exposure at most [stops].")
    max_white_balance: float = Field(0.15, gt=0, description="Change of red or blue against green at most [share].")
    max_scale: float = Field(
        0.08, gt=0, description="Difference of the product's size from the others' at most, perspective apart."
    )
    max_cut: float = Field(0.02, ge=0, le=1, description="Share of the photo's edge that is product at most.")
    max_clutter: float = Field(0.03, ge=0, le=1, description="Share of the backdrop near the product that is edges.")
    max_unsure: float = Field(0.75, gt=0, description="Soft pixels of the mask's outline against its sharp ones.")


class RunSettings(_Settings, role=Role.WORK):
    """How the work is spread; no result depends on it."""

    executor: Literal["ray_data", "local"] = Field(
        "ray_data",
        description="`local` runs stage after stage in one process without Ray: for small jobs, which start seconds sooner.",
    )
    products_per_part: int = Field(16, ge=1, description="Products in one part file: the unit of commit and of loss.")
    products_per_block: int = Field(4, ge=1, description="Products in one task's input.")
    network_batch: int = Field(32, ge=1, description="Views in one forward pass of a network.")
    mask_workers: int | None = Field(None, ge=1, description="Mask actors; default: by the cluster's CPUs.")
    describe_workers: int | None = Field(None, ge=1, description="Depth and identity actors; default: 2 a GPU, or 1.")
    videos_per_part: int = Field(4, ge=1, description="Products in one part of `videos`.")
    render_workers: int | None = Field(None, ge=1, description="Render actors; default: one a GPU, or one for 2 CPUs.")
    generators_on_cpu: bool = Field(
        False, description="Where there is no GPU, draw on CPUs with generators that want one: minutes a frame."
    )
    decode_workers: int | None = Field(None, ge=1, description="Decode tasks at once; default: by the cluster's CPUs.")
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
        description="A run in which nothing moves for so long ends, waiting for spot nodes included [s]; null = never.",
    )
    part_bytes: int = Field(
        256 * 2**20, ge=2**20, description="Views in one part at most, but for the last product's rest [bytes]."
    )
    cpu_hour_price: float | None = Field(None, ge=0, description="Of one logical CPU held for an hour, for the record.")
    gpu_hour_price: float | None = Field(None, ge=0, description="Of one GPU held for an hour, for the record.")


class Profile(_Settings, role=Role.WORK):
    """A named set of models and settings, one YAML file in `gapray/profiles`."""

    name: str = Field(description="The file's name without its ending.")
    description: str = Field(description="One sentence for `gapray models list`.")
    packaging: PackagingSettings = PackagingSettings()
    orbit: OrbitSettings = OrbitSettings()
    video: VideoSettings = VideoSettings()
    stills: StillSettings = StillSettings()
    fidelity: FidelitySettings = FidelitySettings()
    check: CheckSettings = CheckSettings()
    run: RunSettings = RunSettings()


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What of an environment may go along with work: `WORKER_ENVIRONMENT` and settings, without URLs that hold a password."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if (name in WORKER_ENVIRONMENT or name.startswith(ENV_PREFIX)) and value == without_password(value)
    }


def without_password(url: str) -> str:
    """A URL with ``***`` in the place of its password; unchanged when it has none."""
    return _PASSWORD_ITEM.sub(rf"\1{HIDDEN}", _PASSWORD.sub(rf"\1\2:{HIDDEN}@", url))


def canonical_hash(value: object) -> str:
    """sha256 of `canonical_text`."""
    return hashlib.sha256(canonical_text(value).encode()).hexdigest()


def canonical_text(value: object) -> str:
    """`value` as JSON with sorted keys: the same for equal data on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def profile_names() -> list[str]:
    """The profiles that ship with gapray."""
    folder = resources.files("gapray") / "profiles"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_profile(
    name: str = "classic",
    *,
    config_file: str | Path | None = None,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Profile:
    """Build a profile from its file and what the user put over it.

    Args:
        name: One of `profile_names()`.
        config_file: YAML with any of the profile's fields; those of `packaging` may stand outside of it, as in `overrides`.
        overrides: ``mask.model=u2net`` items (the prefix ``packaging.`` may be left out); they win over all else.
        environment: Stands in for `os.environ`.

    Raises:
        ConfigError: `profile.unknown` or `config.invalid`.
    """
    if name not in profile_names():
        raise ConfigError("profile.unknown", f"there is no profile {name!r}; profiles: {', '.join(profile_names())}")
    text = (resources.files("gapray") / "profiles" / f"{name}.yaml").read_text()
    data: dict[str, Any] = {"name": name} | (yaml.safe_load(text) or {})
    if config_file is not None:
        data = _merge(data, _grouped(_read_yaml(Path(config_file)), str(config_file)))
    for key, value in sorted((os.environ if environment is None else environment).items()):
        if key.startswith(ENV_PREFIX):
            _assign(data, key.removeprefix(ENV_PREFIX).lower().split("__"), value, key)
    for item in overrides:
        path, equals, value = item.partition("=")
        if not equals:
            raise ConfigError("config.invalid", f"--set {item!r} is not of the form name.field=value")
        _assign(data, path.strip().split("."), value, f"--set {item}")
    try:
        return Profile.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError("config.invalid", f"there is no setting {_short(where)}{_meant(where)}") from error
        raise ConfigError("config.invalid", f"setting {where}: {first['msg']}") from error


def _meant(where: str) -> str:
    """The setting that is spelt nearly so: of the same part before those of others."""
    parent, _, wrong = where.rpartition(".")
    names = sorted(_names_of(Profile), key=lambda name: name.rpartition(".")[0] != parent)
    near = difflib.get_close_matches(wrong, [name.rpartition(".")[2] for name in names], 1)
    return f"; did you mean {_short(next(name for name in names if name.endswith(near[0])))}?" if near else ""


def _short(name: str) -> str:
    return name.removeprefix("packaging.")


def _names_of(model: type[BaseModel], before: str = "") -> list[str]:
    """Dotted names of all settings of a model and of those within it."""
    names = []
    for name, field in model.model_fields.items():
        names.append(before + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += _names_of(field.annotation, f"{before}{name}.")
    return names


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError("config.invalid", f"cannot read {path}: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError("config.invalid", f"{path} holds no mapping of settings")
    return data


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _grouped(said: dict[str, Any], path: str) -> dict[str, Any]:
    """A config file's settings, with those of `packaging` that stand outside of it put into it.

    Raises:
        ConfigError: `config.invalid` for a group that stands in both places.
    """
    short = {name: value for name, value in said.items() if name in PackagingSettings.model_fields}
    long = said.get("packaging") or {}
    if not short or not isinstance(long, dict):
        return said
    if twice := sorted(short.keys() & long.keys()):
        raise ConfigError("config.invalid", f"{path}: {twice[0]} stands in `packaging` and outside of it")
    rest = {name: value for name, value in said.items() if name not in short}
    return rest | {"packaging": {**long, **short}}


def _assign(data: dict[str, Any], path: list[str], value: str, said: str) -> None:
    if path[0] not in ("packaging", "orbit", "video", "stills", "fidelity", "check", "run"):
        path = ["packaging", *path]
    for key in path[:-1]:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise ConfigError("config.invalid", f"{said}: {key} is no group of settings")
    try:
        data[path[-1]] = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2026-13-40
        raise ConfigError(
            "config.invalid", f"{said}: the value is no YAML; put text with ': ' or other marks in quotes"
        ) from error
