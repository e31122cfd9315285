from pathlib import Path

import pytest

from tests.spacetime_gr.training.prepared_city import write_city


@pytest.fixture(scope="session")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_city(tmp_path_factory.mktemp("training") / "city")
