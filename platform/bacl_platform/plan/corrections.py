"""What a job of corrections depends on, and its configuration."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bacl.method_settings.base import Method
from bacl.method_settings.corrections import Correction
from bacl.result_versions import version_of
from bacl_platform.plan.job import Job, digest_of
from bacl_platform.plan.stored import evaluated_on_features

if TYPE_CHECKING:
    from bacl.datasets.prepared import Prepared


def needs_images(corrections: Mapping[str, Correction]) -> bool:
    """Whether any of them needs statistics of training images."""
    return any(settings.samples for settings in corrections.values())


def correction_key(
    name: str, settings: Correction, parent: Job, shown: Mapping[str, Any] | None
) -> str:
    """Key of a corrected variant: of the key of the trained one, which stands for its name and for
    all that its evaluation depends on, and of the correction.

    shown: the `train_dataloader` that statistics are of.
    """
    from bacl.config import portable

    chosen = settings.model_dump(mode="json", exclude_defaults=True, exclude={"of"})
    of_images = portable({"shown": shown}) if settings.samples else None
    base = parent.variant_keys[settings.of]
    versions = correction_versions({name: settings})
    return digest_of(["correction", name, chosen, base, versions, of_images])


def correction_versions(corrections: Mapping[str, Correction]) -> dict[str, int | str]:
    """Versions of the parts on which they depend besides those of what they correct."""
    parts = [f"correction.{settings.method}" for settings in corrections.values()]
    return {part: version_of(part) for part in parts}


def features_read(parent: Job, corrections: Mapping[str, Correction]) -> str | None:
    """Key of the job whose stored features corrections of the job `parent` read, if they do."""
    reads = parent.replayed and (evaluated_on_features(parent) or needs_images(corrections))
    return parent.parent if reads else None


def corrected_config(
    parent: Job,
    prepared: "Prepared",
    corrections: Mapping[str, Correction],
    shown: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The configuration of a job that corrects variants of the job `parent`."""
    from bacl.config import corrections_config

    used = shown if needs_images(corrections) else None
    return corrections_config(parent.config, prepared, parent.recipe, corrections, used)


def images_observed(job: Job) -> int:
    """How many training images pass the trunk for statistics of a job of corrections."""
    from bacl.config import bank_heads

    loader = job.config.get("statistics_dataloader")
    if loader is None or loader["dataset"]["type"] == "StoredFeatures":
        return 0
    options = bank_heads(job.config)[0]["variants"]
    return max(options[name]["images"] for name, own in job.variants.items() if _samples(own))


def _samples(settings: Method) -> bool:
    return isinstance(settings, Correction) and settings.samples
