"""What `detector.weights` may say besides a file: addresses on the web, and names of hubs.

This module does not import torch, because `bacl.settings` must load quickly.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from bacl.errors import UsageError

TORCHVISION = "torchvision"
"""The weights that torchvision has for the detector's backbone."""
SCHEMES = ("https://", "http://", "hf://", "torchvision://", "open-mmlab://")
_DIGEST = "#sha256="
_HF = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?/(?P<file>[^@?]+)")
_PUBLISHED = re.compile(r"-([0-9a-f]{8,64})\.\w+$")


@dataclass(frozen=True)
class Address:
    """Weights on the web: `place` is an address or a hub's name, sha256 what it must give, where
    that is known."""

    place: str
    sha256: str | None

    @property
    def text(self) -> str:
        """The address as a setting has it."""
        return self.place + (f"{_DIGEST}{self.sha256}" if self.sha256 else "")


def is_file(weights: str) -> bool:
    """Whether a value of `detector.weights` is the path of a file."""
    return weights != TORCHVISION and "://" not in weights


def address_of(weights: str) -> Address | None:
    """What a value of `detector.weights` means on the web; None of a file, and of `torchvision`,
    whose name the backbone completes.

    Raises ValueError with a sentence where an address is none that can be asked for.
    """
    if weights == TORCHVISION or "://" not in weights:
        return None
    if not weights.startswith(SCHEMES):
        raise ValueError(
            f"expected torchvision, a file, or an address that begins with {', '.join(SCHEMES)}, "
            f"got {weights!r}"
        )
    place, _, digest = weights.partition(_DIGEST)
    if _DIGEST in weights and not re.fullmatch(r"[0-9a-f]{64}", digest.lower()):
        raise ValueError(
            f"expected 64 hexadecimal digits after {_DIGEST}, got {len(digest)} characters"
        )
    if place.startswith("hf://") and not _HF.fullmatch(place):
        raise ValueError(f"expected hf://OWNER/REPOSITORY/FILE, got {place!r}")
    if place.startswith(("http://", "https://")) and not _name(place):
        raise ValueError(f"expected an address that ends with a file's name, got {place!r}")
    return Address(place, digest.lower() or None)


def _name(url: str) -> str:
    return PurePosixPath(urlsplit(url).path).name


def locate(address: Address, mirrors: Sequence[str] = ()) -> tuple[str, list[str]]:
    """The name of the file, and where to ask for it, mirrors first.

    mirrors: base addresses that have the file as `<mirror>/<name>`. Raises UsageError for a name
    that a hub does not have.
    """
    url = _url(address.place)
    name = _name(url)
    return name, [*(f"{mirror.rstrip('/')}/{name}" for mirror in mirrors), url]


def published_digest(address: Address, name: str) -> str | None:
    """The first digits of a file's SHA-256, which PyTorch puts into its name; None elsewhere."""
    found = _PUBLISHED.search(name)
    return found[1] if found and address.place.startswith("torchvision://") else None


def _url(place: str) -> str:
    """The URL of an address; MMEngine's where the hub's name is one of MMEngine's."""
    if match := _HF.fullmatch(place):
        base = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        revision = match["revision"] or "main"
        return f"{base.rstrip('/')}/{match['repo']}/resolve/{revision}/{match['file']}"
    scheme, _, name = place.partition("://")
    if scheme in ("http", "https"):
        return place
    from mmengine.runner import checkpoint

    known: dict[str, str] = (
        checkpoint.get_torchvision_models()
        if scheme == "torchvision"
        else checkpoint.get_external_models()
    )
    if name not in known:
        close = get_close_matches(name, known, 1)
        hint = f" (did you mean {scheme}://{close[0]}?)" if close else ""
        raise UsageError(f"{place}: expected a name of {scheme}'s weights, got {name!r}{hint}")
    return known[name]


def in_torch_hub(address: Address) -> bool:
    """Whether torch.hub's cache has the file, where MMEngine finds it without a network."""
    import torch.hub

    return Path(torch.hub.get_dir(), "checkpoints", locate(address)[0]).is_file()


# In configurations


def checkpoint_of(part: Any) -> str | None:
    """The weights that a part of a configuration begins with: a file or an address; None without
    an `init_cfg` of such."""
    if not isinstance(part, Mapping) or part.get("type") != "Pretrained":
        return None
    checkpoint = part.get("checkpoint")
    return checkpoint if isinstance(checkpoint, str) and checkpoint else None


def enters_by_content(checkpoint: str) -> bool:
    """Whether a key has the digest of these weights and not their name."""
    return is_file(checkpoint) or _DIGEST in checkpoint


def pretrained(config: Any) -> Iterator[dict[str, Any]]:
    """Each `init_cfg` of a configuration that names weights."""
    if isinstance(config, dict):
        if checkpoint_of(config):
            yield config
        for value in config.values():
            yield from pretrained(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from pretrained(value)
