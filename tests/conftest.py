"""Fixtures that several files share."""

from pathlib import Path

import pytest
from tiny_folder import save_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random model; do not change it."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
