"""Vectors of places in a prepared folder, on their way into the model of a run."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from spacetime_gr.training.config import PretrainConfig
from spacetime_gr.training.data import load_tokenizer
from spacetime_gr.training.distributed import World
from spacetime_gr.training.loading import load_config
from spacetime_gr.training.model import build_model
from tests.spacetime_gr.training.prepared_city import NUM_POIS


@pytest.fixture
def config(city: Path, tmp_path: Path) -> PretrainConfig:
    folder = tmp_path / "city"
    shutil.copytree(city, folder)
    file = tmp_path / "run.yaml"
    file.write_text(
        f"run: {{dir: {tmp_path / 'run'}}}\ndata: {{path: {folder}}}\ntrain: {{max_steps: 5}}\n"
        "model: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, poi_embedding_size: 3}\n"
    )
    return load_config(file)


def test_the_file_reaches_the_model(config: PretrainConfig) -> None:
    vectors = np.arange(NUM_POIS * 3, dtype=np.float32).reshape(NUM_POIS, 3)
    np.save(Path(config.data.path) / "poi_embeddings.npy", vectors)
    tokenizer = load_tokenizer(config)
    model = build_model(config, tokenizer, World(0, 1, 0, 1, torch.device("cpu")))
    assert np.array_equal(model.places.vector.numpy(), vectors[tokenizer.index.rows_in_order()])


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (None, "poi_embeddings.npy is missing, but model.poi_embedding_size=3"),
        (
            np.zeros((NUM_POIS, 4), np.float16),
            r"float16 of shape \(60, 4\), expected float16 or float32 of shape \(60, 3\)",
        ),
        (np.zeros((NUM_POIS, 3), np.int64), "holds int64"),
        (b"no array", "poi_embeddings.npy is no NumPy array"),
        (np.array([object()]), "poi_embeddings.npy is no NumPy array"),
    ],
)
def test_other_files_are_refused(config: PretrainConfig, vectors: np.ndarray | bytes | None, said: str) -> None:
    file = Path(config.data.path) / "poi_embeddings.npy"
    if isinstance(vectors, bytes):
        file.write_bytes(vectors)
    elif vectors is not None:
        np.save(file, vectors, allow_pickle=True)
    with pytest.raises(ValueError, match=said):
        build_model(config, load_tokenizer(config), World(0, 1, 0, 1, torch.device("cpu")))
