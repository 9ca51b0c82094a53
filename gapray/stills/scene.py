"""Scenes as data: the prompt for a diffusion model, and how the weight-free backend draws the scene."""

from __future__ import annotations

from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from gapray.errors import ConfigError, InputError
from gapray.plain_yaml import PlainModel, first_problem, parse_mapping, read_mapping

MAX_PROMPT_LENGTH = 4000
"""Maximum length of a prompt [characters]; SDXL's two encoders read it in windows of 75 tokens."""
SCENE_SUFFIXES = (".yaml", ".yml")
PRODUCT = "{product}"
"""What stands for the product's name in a prompt."""
_COLOUR = "^#[0-9a-fA-F]{6}$"


class Surface(PlainModel):
    """What the product stands on."""

    kind: Literal["plain", "marble", "wood", "speckle", "weave", "tile", "brushed"] = "plain"
    colours: tuple[Annotated[str, Field(pattern=_COLOUR)], Annotated[str, Field(pattern=_COLOUR)]] = Field(
        ("#f0f0f0", "#e4e4e4"), description="Colours of the surface and of its pattern."
    )


class Wall(PlainModel):
    """What is behind the product, out of focus."""

    top: str = Field("#ffffff", pattern=_COLOUR)
    bottom: str = Field("#e8e8e8", pattern=_COLOUR)


class Light(PlainModel):
    """Where the light comes from, as seen by the viewer of the picture."""

    azimuth_deg: float = Field(30.0, ge=-90, le=90, description="0 = from the camera, 90 = from the right.")
    elevation_deg: float = Field(45.0, gt=5, le=90)
    colour: str = Field("#ffffff", pattern=_COLOUR)
    softness: float = Field(0.4, ge=0, le=1, description="0 = a point, 1 = a white sky.")
    shadow: float = Field(0.6, ge=0, le=1, description="How dark the shadow is.")


class Scene(PlainModel):
    """A scene to draw a product in."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    prompt: str = Field(description="`{product}` is replaced by the product's name.")
    negative_prompt: str = "text, watermark, deformed, low quality"
    surface: Surface = Surface()
    wall: Wall = Wall()
    light: Light = Light()

    def prompt_for(self, product: str) -> str:
        """The prompt with the product's name in it.

        Raises:
            InputError: `still.empty_prompt` or `still.prompt_too_long`.
        """
        return checked_prompt(self.prompt.replace(PRODUCT, product))


def checked_prompt(prompt: str) -> str:
    """Strip surrounding whitespace from a prompt and check its length.

    Raises:
        InputError: `still.empty_prompt` or `still.prompt_too_long`.
    """
    text = prompt.strip()
    if not text:
        raise InputError("still.empty_prompt", "the scene has no prompt")
    if len(text) > MAX_PROMPT_LENGTH:
        raise InputError("still.prompt_too_long", f"the prompt has {len(text)} characters, {MAX_PROMPT_LENGTH} at most")
    return text


def scene_names() -> list[str]:
    """Names of the scenes that ship with gapray."""
    folder = resources.files("gapray.stills") / "scenes"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_scenes(names: list[str]) -> list[Scene]:
    """Load scenes by name, by path of a YAML file, or by folder of such files.

    Raises:
        ConfigError: `scene.unknown` or `config.invalid`.
    """
    scenes: list[Scene] = []
    for name in names:
        if not name.strip():
            raise ConfigError("scene.unknown", "a name in the list of scenes is empty: is there a comma too many?")
        path = Path(name)
        if path.is_dir():
            scenes += _scenes_in(path)
        elif path.suffix in SCENE_SUFFIXES and path.exists():
            scenes.append(_scene_of(path))
        elif name in scene_names():
            text = (resources.files("gapray.stills") / "scenes" / f"{name}.yaml").read_text(encoding="utf-8")
            scenes.append(_scene(name, parse_mapping(text, f"scene {name}"), name))
        else:
            raise ConfigError("scene.unknown", f"there is no scene {name!r}; scenes: {', '.join(scene_names())}")
    counts = Counter(scene.name for scene in scenes)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ConfigError("config.invalid", f"two scenes have one name, {twice[0]}")
    return scenes


def _scenes_in(folder: Path) -> list[Scene]:
    """Load the scenes of a folder, without those of folders in it."""
    files = sorted(file for file in folder.iterdir() if file.suffix in SCENE_SUFFIXES)
    if not files:
        raise ConfigError("scene.unknown", f"the folder {folder} has no scene: no file ends in .yaml or .yml")
    return [_scene_of(file) for file in files]


def _scene_of(path: Path) -> Scene:
    return _scene(path.stem, read_mapping(path, f"scene {path}"), str(path))


def _scene(name: str, data: dict[str, Any], where: str) -> Scene:
    """Validate a scene that was read from a file, whose prompt must name the product; an empty one fails when it is drawn."""
    try:
        scene = Scene.model_validate({"name": name} | data)
    except ValidationError as error:
        raise ConfigError("config.invalid", f"scene {where}: {first_problem(error)}") from error
    if scene.prompt.strip() and PRODUCT not in scene.prompt:
        raise ConfigError(
            "config.invalid", f'scene {where}: prompt: {PRODUCT} is not in it, as in "{PRODUCT} on a table"'
        )
    return scene
