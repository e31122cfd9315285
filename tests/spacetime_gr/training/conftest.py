import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.spacetime_gr.training.prepared_city import write_city
from tests.spacetime_gr.training.processes import RankServer, wait_ranks


@pytest.fixture(scope="session")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_city(tmp_path_factory.mktemp("training") / "city")


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankServer]:
    """Starts ranks; one server for all tests."""
    server = RankServer(tmp_path_factory.mktemp("ranks"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def ranks_found(
    city: Path, ranks: RankServer, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], dict[str, Any]]:
    """What parity_worker.py finds on so many ranks; each number of ranks is launched once."""

    @cache
    def launch(world_size: int) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp(f"ranks-{world_size}")
        out = folder / "found.json"
        command = ["tests/spacetime_gr/training/parity_worker.py", str(city), str(out)]
        wait_ranks(ranks.start(command, world_size, folder), folder, timeout=550)
        found: dict[str, Any] = json.loads(out.read_text())
        return found

    return launch
