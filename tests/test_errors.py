"""Errors are sentences with a way out."""

from __future__ import annotations

import pickle

import pytest
from torch.utils.data import DataLoader, Dataset

from mapex_lightning.errors import MapexError, unknown


def test_the_nearest_known_name_is_suggested() -> None:
    assert "Did you mean 's2_swir'?" in str(unknown("modality", "s2_swri", ["s1", "s2_swir"]))


def test_capitals_do_not_matter_for_what_is_nearest() -> None:
    assert "Did you mean 'EuroSAT'?" in str(unknown("data set", "Eurosat", ["BenGe", "EuroSAT"]))


def test_nothing_is_suggested_for_a_name_like_no_other() -> None:
    assert "Did you mean" not in str(unknown("modality", "hyperspectral", ["s1", "s2"]))


def test_the_sentence_says_what_was_wanted_and_found_and_what_exists_and_helps() -> None:
    error = unknown("modality", "x", ["s2", "s1"], "Add it to the table", "in this encoder")
    assert str(error) == "There is no modality 'x' in this encoder. Known: s1, s2. Add it to the table."


def test_an_empty_list_of_known_names_is_said_to_be_empty() -> None:
    assert "Known: none." in str(unknown("run", "x", []))


class Refusing(Dataset[int]):
    """Cannot be read."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, at: int) -> int:
        try:
            raise MapexError("A first sentence.")
        except MapexError as error:
            raise MapexError("Band B02 of a.tif cannot be read: fetch it again.\nIt is cut short.") from error


def test_a_sentence_comes_out_of_a_worker_process_without_its_traceback() -> None:
    with pytest.raises(MapexError) as caught:
        list(DataLoader(Refusing(), num_workers=1))
    assert str(caught.value) == "Band B02 of a.tif cannot be read: fetch it again.\nIt is cut short."


def test_a_sentence_survives_pickling() -> None:
    assert str(pickle.loads(pickle.dumps(MapexError("There is no a.tif.")))) == "There is no a.tif."


def test_libraries_that_catch_value_errors_do_not_bury_the_sentence() -> None:
    assert not issubclass(MapexError, ValueError | TypeError)
