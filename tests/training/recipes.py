"""Recipes for tests: small, quick, and valid."""

from __future__ import annotations

from typing import Any

from training.recipe import Recipe, recipe_of


def recipe_with(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "model": {"network": "small-cnn"},
        "batch_size": 14,
        "seed": 3,
        "schedule": {"kind": "cosine", "warm_up_epochs": 1.0},
        "phases": [{"epochs": 4, "learning_rate": 0.1}],
    }
    return recipe_of({**values, **changes}, "the test's recipe")
