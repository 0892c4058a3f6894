"""Forest R-CNN, Wu et al. 2020: trees of categories that correct the scores of their leaves."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bacl.methods.branch import branch
from bacl.variants import METHODS, Batch, Softmax


@METHODS.register_module(name="forest")
class Forest(Softmax):
    """Softmax over categories, and one over the parents of each tree, with a parent of its own for
    the background. Columns: categories, background, then each tree's parents."""

    stock_loss = None
    plain_loss = None
    not_plain = "it has hidden layers and classifiers of parents beside its own classifier"
    reads = ("fc1",)
    parent: Tensor
    """Parent of each label in each tree, (trees, C + 1)."""

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        trees: Sequence[Sequence[int]],
    ) -> None:
        super().__init__(width, categories, generator)
        self.sizes = [categories + 1, *(max(tree) + 2 for tree in trees)]
        self.parents = nn.ModuleList(
            branch(width, width, size, generator) for size in self.sizes[1:]
        )
        parent = torch.tensor([[*tree, max(tree) + 1] for tree in trees])
        self.register_buffer("parent", parent, persistent=False)

    def classifier(self, width: int, columns: int, generator: torch.Generator) -> nn.Module:
        return branch(width, width, columns, generator)

    @property
    def columns(self) -> int:
        return sum(self.sizes)

    def logits(self, features: Tensor) -> Tensor:
        """Logits of categories and of parents; parents' classifiers pass no gradient to the
        features."""
        apart = features.detach()
        return torch.cat([self.fc_cls(features), *(tree(apart) for tree in self.parents)], dim=1)

    def terms(self, logits: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        own, *trees = logits.float().split(self.sizes, dim=1)
        of_parents = [
            F.cross_entropy(tree, parent[batch.labels], reduction="none")
            for tree, parent in zip(trees, self.parent, strict=True)
        ]
        return {
            "cls": batch.total(F.cross_entropy(own, batch.labels, reduction="none")),
            "parents": batch.total(torch.stack(of_parents).sum(dim=0)),
        }

    def probabilities(self, logits: Tensor) -> Tensor:
        own, *trees = logits.float().split(self.sizes, dim=1)
        of_parents = [
            tree.softmax(dim=1)[:, parent] for tree, parent in zip(trees, self.parent, strict=True)
        ]
        scores = own.softmax(dim=1) * torch.stack(of_parents).mean(dim=0)
        return scores / scores.sum(dim=1, keepdim=True)
