from __future__ import annotations

import json

import pytest

from training.data import FERPLUS
from training.evaluation.facts import read_facts
from worker.errors import ModelError


def test_what_a_file_says_of_itself(mean_model) -> None:
    history = [{"epoch": 1, "train_loss": 2.0, "public_loss": 1.9, "public_accuracy": 0.2}]
    training = {
        "recipe": {"augmentation": {"crop": 40}},
        "seed": 3,
        "epoch": 1,
        "pretrained": "none",
        "teachers": ["feed" * 4],
        "history": history,
    }
    metadata = {
        "training": json.dumps(training),
        "parameters": "893761",
        "multiply_adds": "59500000",
        "precision": "int8",
        "config_digest": "c0ffee",
        "data_digest": "da7a",
    }
    facts = read_facts(mean_model(FERPLUS, metadata=metadata))

    assert (facts.label_set, facts.precision, facts.crop) == ("ferplus", "int8", 40)
    assert (facts.parameters, facts.multiply_adds) == (893761, 59500000)
    assert (facts.config_digest, facts.data_digest) == ("c0ffee", "da7a")
    assert (facts.seed, facts.epoch, facts.pretrained) == (3, 1, "none")
    assert facts.teachers == ["feed" * 4]
    assert facts.history == history


def test_a_file_from_before_these_were_written(mean_model) -> None:
    facts = read_facts(mean_model())
    assert facts.label_set == "fer2013"
    assert facts.history == []
    assert facts.crop == 44
    assert (
        facts.seed
        is facts.epoch
        is facts.parameters
        is facts.teachers
        is facts.config_digest
        is None
    )

    old = {"training": json.dumps({"recipe": {"seed": 5}, "epoch": 47})}
    assert read_facts(mean_model(metadata=old)).seed == 5


@pytest.mark.parametrize(
    "metadata", [{"training": "not JSON"}, {"training": "[]"}, {"parameters": "many"}]
)
def test_what_cannot_be_read_is_told(mean_model, metadata: dict[str, str]) -> None:
    with pytest.raises(ModelError, match="the metadata of the model mean cannot be read"):
        read_facts(mean_model(metadata=metadata))
