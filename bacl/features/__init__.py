"""Replay: the classifier stage on stored RoI features instead of the trunk.

`recording` walks images through a frozen detector and keeps what its classifiers see, in `shards`;
`stored` reads them as a dataset, and `replay` trains and evaluates a bank on it.
"""
