import pytest
from pydantic import ValidationError

from gapray.errors import ModelError
from gapray.models.cards import ModelCard, card_named, cards, cards_of
from gapray.profile import load_profile, profile_names


def test_every_profile_names_cards_of_the_right_role():
    for name in profile_names():
        for card in cards_of(load_profile(name, environment={}).packaging):
            assert card is card_named(card.name)


def test_wrong_role_and_unknown_name():
    for setting in ("depth.model=u2netp", "mask.model=nobody"):
        with pytest.raises(ModelError) as error:
            cards_of(load_profile("classic", overrides=[setting], environment={}).packaging)
        assert error.value.code == "model.unknown"


def test_every_file_can_be_had_and_names_are_unique():
    files = [(card.name, file.name) for card in cards().values() for file in card.files]
    assert len(set(files)) == len(files)
    # The LPIPS trunk is read from a mirror only, until a source that is no wheel can be opened without running it.
    assert {card.name for card in cards().values() for file in card.files if not (file.sources or file.shipped)} == {
        "lpips-alexnet"
    }


def test_a_card_refuses_an_invalid_hash():
    with pytest.raises(ValidationError):
        ModelCard.model_validate(
            {
                "name": "x",
                "role": "mask",
                "licence": "MIT",
                "licence_url": "https://example.org",
                "files": [{"name": "x.onnx", "sha256": "abc", "sources": []}],
            }
        )
