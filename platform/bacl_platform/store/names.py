"""Names of what a store has: files of jobs, their keys, notes."""

import re

KEY = re.compile(r"[0-9a-f]{16}")
"""Tells entries and work from other folders."""

MANIFEST = "manifest.json"

CHECKPOINT = "checkpoint.pth"

DETECTIONS = "detections.parquet"
"""What a variant has found on the validation split: the best of each image."""

BEYOND = "beyond.parquet"
"""What AP-Fixed counts besides: the best detections of each category, those of DETECTIONS left
out."""

JOB = "job.json"

SCALARS = "scalars.jsonl"

MOVES = "moves.json"
"""Which variants of a population went on from which others, and with which values."""

STOPPED = "stopped.json"
"""Which variants have left the bank of a job."""

CHECKPOINTS = "checkpoints"
"""The folder of a job's checkpoints, while it trains, and of those that are kept after."""

SHARDS = "shards"
"""The folder of stored features."""

LOG = "train.log"

FAILURE = "failure.txt"
"""How an unfinished job failed, until it is started again."""

REHEARSING = ".rehearsing"
"""The folder of stores inside a store in which rehearsals run; what is there is nobody's result."""


def failure_note(key: str) -> str:
    """The name of the note on how an unfinished job failed."""
    return f".work/{key}/{FAILURE}"
