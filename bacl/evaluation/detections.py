"""Detections in columns, and their files.

N detections.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

BOXES = pa.schema(
    [("image", pa.int32()), ("label", pa.int32()), ("score", pa.float32())]
    + [(side, pa.float32()) for side in ("x", "y", "width", "height")]
)
MASKS = BOXES.append(pa.field("mask", pa.binary()))


@dataclass(frozen=True)
class Detections:
    """N detections in columns.

    image (N,) int, the position in the split; label (N,) int; score (N,); bbox (N, 4) as x, y,
    width, height in pixels of the original image. mask (N,) of bytes, each the counts of COCO's
    compressed RLE over the original image; None where the detector has no masks.
    """

    image: NDArray[Any]
    label: NDArray[Any]
    score: NDArray[Any]
    bbox: NDArray[Any]
    mask: NDArray[Any] | None = None

    @classmethod
    def read(cls, *paths: Path) -> "Detections":
        """Read detections.parquet, or the shards of all ranks."""
        return cls.from_table(pa.concat_tables(read_shards(paths)))

    @classmethod
    def from_table(cls, table: pa.Table) -> "Detections":
        """Take the columns of a table."""
        sides = [table[name].to_numpy() for name in ("x", "y", "width", "height")]
        return cls(
            table["image"].to_numpy(),
            table["label"].to_numpy(),
            table["score"].to_numpy(),
            np.stack(sides, axis=1),
            table["mask"].to_numpy() if "mask" in table.column_names else None,
        )

    def table(self) -> pa.Table:
        """The columns as a file has them; without masks."""
        columns = (self.image, self.label, self.score, *self.bbox.T)
        arrays = [pa.array(column, kind) for column, kind in zip(columns, BOXES.types, strict=True)]
        return pa.table(arrays, schema=BOXES)

    @classmethod
    def join(cls, *parts: "Detections") -> "Detections":
        """All detections of the parts, which may be of the same images; masks if all have them."""
        masks = [part.mask for part in parts if part.mask is not None]
        return cls(
            np.concatenate([part.image for part in parts]),
            np.concatenate([part.label for part in parts]),
            np.concatenate([part.score for part in parts]),
            np.concatenate([part.bbox for part in parts]),
            np.concatenate(masks) if len(masks) == len(parts) else None,
        )

    def at(self, rows: NDArray[Any]) -> "Detections":
        """Some of the detections, by their numbers or by a mask (N,)."""
        mask = None if self.mask is None else self.mask[rows]
        return Detections(
            self.image[rows], self.label[rows], self.score[rows], self.bbox[rows], mask
        )


def read_shards(paths: Sequence[Path]) -> list[pa.Table]:
    """Each rank's detections, an image's from the first rank that saw it alone."""
    shards = [pq.ParquetFile(path).read() for path in paths]
    merged = [shards[0]]
    seen = shards[0]["image"].unique()
    for shard in shards[1:]:
        repeated = pc.is_in(shard["image"], value_set=seen)
        merged.append(shard.filter(pc.invert(repeated)))
        seen = pa.concat_arrays([seen, merged[-1]["image"].unique()])
    return merged


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it to `path`."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    write(part)
    part.replace(path)
