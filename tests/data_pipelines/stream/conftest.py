"""Fixtures of the stream's tests."""

from pathlib import Path

import pytest

from .folders import FakeTokenizer, make_users, write_folder


@pytest.fixture
def tokenizer() -> FakeTokenizer:
    return FakeTokenizer()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files, five units, users of 1 to 40 actions (rows of the tests hold 8): 20 users."""
    lengths = [1, 3, 40, 8, 9, 2, 5, 17, 1, 4, 6, 8, 16, 12, 7, 2, 30, 3, 1, 5]
    users = make_users(lengths, mode=lambda t: t // 3 % 2)
    return write_folder(tmp_path_factory.mktemp("prepared") / "data", [users[:9], users[9:]], users_per_row_group=5)
