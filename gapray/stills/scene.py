"""Scenes as data: the prompt for a diffusion model, and how the weight-free backend draws the scene."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gapray.errors import ConfigError, InputError

MAX_PROMPT_LENGTH = 4000
"""Maximum length of a prompt [characters]; SDXL's two encoders read it in windows of 75 tokens."""
_COLOUR = "^#[0-9a-fA-F]{6}$"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Surface(_Part):
    """What the product stands on."""

    kind: Literal["plain", "marble", "wood", "speckle", "weave", "tile", "brushed"] = "plain"
    colours: tuple[str, str] = Field(("#f0f0f0", "#e4e4e4"), description="Colours of the surface and of its pattern.")


class Wall(_Part):
    """What is behind the product, out of focus."""

    top: str = Field("#ffffff", pattern=_COLOUR)
    bottom: str = Field("#e8e8e8", pattern=_COLOUR)


class Light(_Part):
    """Where the light comes from, as seen by the viewer of the picture."""

    azimuth_deg: float = Field(30.0, ge=-90, le=90, description="0 = from the camera, 90 = from the right.")
    elevation_deg: float = Field(45.0, gt=5, le=90)
    colour: str = Field("#ffffff", pattern=_COLOUR)
    softness: float = Field(0.4, ge=0, le=1, description="0 = a point, 1 = a white sky.")
    shadow: float = Field(0.6, ge=0, le=1, description="How dark the shadow is.")


class Scene(_Part):
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
        return checked_prompt(self.prompt.replace("{product}", product))


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
        path = Path(name)
        if path.is_dir():
            scenes += [_scene_in(file) for file in sorted(path.glob("*.yaml"))]
        elif path.suffix in (".yaml", ".yml") and path.exists():
            scenes.append(_scene_in(path))
        elif name in scene_names():
            text = (resources.files("gapray.stills") / "scenes" / f"{name}.yaml").read_text(encoding="utf-8")
            scenes.append(_scene(name, text, name))
        else:
            raise ConfigError("scene.unknown", f"there is no scene {name!r}; scenes: {', '.join(scene_names())}")
    if len({scene.name for scene in scenes}) < len(scenes):
        raise ConfigError("config.invalid", "two scenes have one name")
    return scenes


def _scene_in(path: Path) -> Scene:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("config.invalid", f"scene {path}: {error}") from error
    return _scene(path.stem, text, str(path))


def _scene(name: str, text: str, where: str) -> Scene:
    try:
        return Scene.model_validate({"name": name} | (yaml.safe_load(text) or {}))
    except (ValidationError, yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error).splitlines()[0]
        raise ConfigError("config.invalid", f"scene {where}: {first}") from error
