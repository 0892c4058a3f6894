"""A hidden layer with a linear layer on top."""

import torch
from torch import nn


def branch(width: int, hidden: int, columns: int, generator: torch.Generator) -> nn.Sequential:
    """Module from (N, width) to (N, columns), whose outputs are initially near 0, as a classifier's
    are."""
    first, last = nn.Linear(width, hidden), nn.Linear(hidden, columns)
    nn.init.xavier_uniform_(first.weight, generator=generator)
    nn.init.zeros_(first.bias)
    nn.init.normal_(last.weight, std=0.01, generator=generator)
    nn.init.zeros_(last.bias)
    return nn.Sequential(first, nn.ReLU(), last)
