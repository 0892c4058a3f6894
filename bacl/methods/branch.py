"""A hidden layer and what stands on it."""

import torch
from torch import nn


def branch(width: int, hidden: int, columns: int, generator: torch.Generator) -> nn.Sequential:
    """(N, columns) of (N, width); near nothing at first, as a classifier is."""
    first, last = nn.Linear(width, hidden), nn.Linear(hidden, columns)
    nn.init.xavier_uniform_(first.weight, generator=generator)
    nn.init.zeros_(first.bias)
    nn.init.normal_(last.weight, std=0.01, generator=generator)
    nn.init.zeros_(last.bias)
    return nn.Sequential(first, nn.ReLU(), last)
