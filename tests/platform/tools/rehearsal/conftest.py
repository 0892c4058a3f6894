"""What tests of rehearsals share: figures as if they had been measured."""

from collections.abc import Callable

import pytest

from bacl_platform.plan.rehearsed import Figures, Memory

GIB = 2**30


@pytest.fixture
def figures() -> Callable[..., Figures]:
    """Makes figures of a rank that took 3 GiB, 1 before it saw images; those given are
    different, those of `Memory` as well."""

    def made(**given) -> Figures:
        memory = {
            "rank": 0,
            "host": 3 * GIB,
            "host_room": 8 * GIB,
            "host_fixed": 1 * GIB,
            "loaders": 0,
            "loader_workers": 0,
            "disk_room": 100 * GIB,
        }
        memory |= {name: given.pop(name) for name in Memory.model_fields if name in given}
        known = {
            "date": "2026-11-29T10:00:00+00:00",
            "machine": "8 x A",
            "workers": 1,
            "variants": 2,
            "pass_images": 8,
            "steps": [1.0] * 20,
            "waits": [0.1] * 20,
            "images": [0.1] * 10,
            "opening": 0.0,
            "judging": 0.0,
            "judging_variant": 0.0,
            "judging_image": 0.0,
            "start": 5.0,
            "checkpoint": 0.0,
            "end": 5.0,
            "checkpoint_bytes": 0,
            "entry_bytes": 10,
            "bank_bytes": 0,
            "detection_bytes": 0,
            "view_bytes": 0,
            "image_bytes": 0,
        }
        return Figures(**{**known, **given, "memory": [Memory(**memory)]})

    return made
