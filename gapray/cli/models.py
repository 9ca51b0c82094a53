"""Implementation of `gapray models`: listing, fetching and verifying weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from gapray.errors import ModelError
from gapray.fidelity.trunks import KNOWN
from gapray.models.cards import HubSource, ModelCard, card_named, cards, cards_of
from gapray.models.store import locate, read_lock
from gapray.profile import Profile, load_profile, profile_names
from gapray.video.load import orbit_cards


def card_rows() -> list[dict[str, Any]]:
    """Return one row per card, for the table and for JSON."""
    users: dict[str, list[str]] = {name: [] for name in cards()}
    for profile in profile_names():
        for card in _cards_of_profile(load_profile(profile, environment={})):
            users[card.name].append(profile)
    lock = read_lock()
    rows = []
    for card in cards().values():
        digests = [file.sha256 or lock.get(f"{card.name}/{file.name}") for file in card.files]
        size = sum(file.bytes or 0 for file in card.files)
        rows.append(
            {
                "card": card.name,
                "role": card.role,
                "licence": card.licence,
                "size": f"{size / 1e6:.1f} MB" if size else "unverified",
                "sha256": ", ".join(digest[:12] if digest else "unverified" for digest in digests),
                "commit": ", ".join(_commits(card, lock)),
                "vram": "unverified" if card.vram_gb is None else f"{card.vram_gb} GB",
                "here": "yes" if _is_here(card) else "no",
                "profiles": ", ".join(users[card.name]),
            }
        )
    return rows


def _commits(card: ModelCard, lock: dict[str, str]) -> list[str]:
    """Return the commits of a card's hub repositories that the card or models.lock pins, abbreviated."""
    hubs = {
        source.repo: source.revision for file in card.files for source in file.sources if isinstance(source, HubSource)
    }
    return [(commit or lock.get(f"hub:{repo}", "unpinned"))[:12] for repo, commit in hubs.items()]


def _cards_of_profile(profile: Profile) -> list[ModelCard]:
    names = [*orbit_cards(profile.orbit), *profile.video.cards()]
    return [*cards_of(profile.packaging), *map(card_named, names), _lpips_backbone(profile)]


def _lpips_backbone(profile: Profile) -> ModelCard:
    """Return the card of LPIPS's backbone in the file format that is on this machine, else in one that can be fetched."""
    formats = [card_named(name) for name in KNOWN[profile.fidelity.net].cards]
    return next((card for card in formats if _is_here(card)), formats[-1])


def profile_rows() -> list[list[str]]:
    """Return the name and description of each profile."""
    return [[name, load_profile(name, environment={}).description] for name in profile_names()]


def pull(names: Sequence[str]) -> Iterator[str]:
    """Fetch cards, or all cards of profiles, and yield a line of text for each file.

    Raises:
        ModelError: A file cannot be fetched or has the wrong hash.
    """
    selected: dict[str, ModelCard] = {}
    for name in names:
        named = _cards_of_profile(load_profile(name)) if name in profile_names() else [card_named(name)]
        selected |= {card.name: card for card in named}
    for card in selected.values():
        located = locate(card, progress=_progress)
        for file, path in located.files.items():
            yield f"{card.name}: {file} {path.stat().st_size} bytes, sha256 {located.sha256[file]}, {path}"


def verify() -> Iterator[str]:
    """Verify all cards that are on this machine, and yield a line of text for each card.

    Raises:
        ModelError: `model.hash_mismatch` for the first file with a wrong hash.
    """
    for card in cards().values():
        try:
            located = locate(card, fetch=False, rehash=True)
        except ModelError as error:
            if error.code == "model.hash_mismatch":
                raise
            yield f"{card.name}: not here"
        else:
            yield f"{card.name}: ok, revision {located.revision[:12]}"


def _is_here(card: ModelCard) -> bool:
    try:
        locate(card, fetch=False)
    except ModelError:
        return False
    return True


def _progress(name: str, done: int, total: int | None) -> None:
    end = "\r" if sys.stderr.isatty() and done != total else "\n"
    if end == "\r" or done == total:
        of_total = f" of {total / 1e6:.1f}" if total else ""
        typer.echo(f"{name}: {done / 1e6:.1f}{of_total} MB{end}", err=True, nl=False)
