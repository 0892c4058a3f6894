"""Functions of plain numbers, of which the oracles of losses and scores are made."""

import math


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def bce(z, target):
    """Binary cross-entropy of a logit."""
    return -math.log(sigmoid(z if target else -z))


def softmax(row):
    everything = sum(map(math.exp, row))
    return [math.exp(z) / everything for z in row]


def cross_entropy(row, label):
    return math.log(sum(map(math.exp, row))) - row[label]


def effective(beta, instances):
    """Weights of mean 1, in proportion to the inverse effective number of instances."""
    inverse = [(1 - beta) / (1 - beta ** max(n, 1)) for n in instances]
    return [len(inverse) * weight / sum(inverse) for weight in inverse]
