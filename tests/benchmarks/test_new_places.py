"""The logit of the benchmark against a world whose weights are known."""

import numpy as np
import torch

from benchmarks.new_places import fit_logit, normalised, row


def test_a_logit_finds_the_weights_of_its_world() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor([1.5, -0.7, 0.0])
    matrix = torch.randn(3000, 12, 3, generator=generator) * torch.tensor([1.0, 4.0, 0.1])
    struck = torch.rand(3000, 12, generator=generator) < 0.3
    struck[:, 0] = False
    chances = normalised(matrix @ truth, struck).exp()
    assert torch.allclose(chances.sum(1), torch.ones(3000))
    assert chances[struck].max() == 0
    target = torch.multinomial(chances, 1, generator=generator)[:, 0].numpy()
    found = fit_logit(matrix, target, struck)
    assert torch.allclose(found[:2], truth[:2], rtol=0.1)
    assert abs(found[2]) < 1.0  # the spread of that feature is a tenth


def test_a_row_counts_ties_at_their_expected_rank() -> None:
    scores = torch.tensor([[0.0, 0.0, -9.0], [-9.0, 0.0, -9.0]]).log_softmax(1)
    assert row("name", scores, np.array([0, 1])).startswith("| name | 0.347 | 0.5000 | 1.0000 |")  # ranks 1.5 and 1
