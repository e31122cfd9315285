from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.spacetime_gr.training.prepared_city import write_city
from tests.spacetime_gr.training.processes import RankServer


@pytest.fixture(scope="session")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_city(tmp_path_factory.mktemp("training") / "city")


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankServer]:
    """Starts ranks; one server for all tests."""
    server = RankServer(tmp_path_factory.mktemp("ranks"))
    yield server
    server.close()
