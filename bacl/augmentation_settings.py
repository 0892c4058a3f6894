"""Settings of augmentations from MMDetection's registry: plain pydantic models without torch."""

from typing import Annotated, Any

from pydantic import ConfigDict, model_validator

from bacl.schema import Names, Settings

_LEVELS = ("prob", "level", "min_mag", "max_mag")
_TRANSLATION = (*_LEVELS, "reversal_prob", "img_border_value", "interpolation")

COLOURS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            "AutoContrast",
            "Brightness",
            "Color",
            "Contrast",
            "Equalize",
            "Invert",
            "Posterize",
            "Sharpness",
            "Solarize",
            "SolarizeAdd",
        ),
        _LEVELS,
    ),
    "CutOut": ("n_holes", "cutout_shape", "cutout_ratio", "fill_in"),
    "PhotoMetricDistortion": (
        "brightness_delta",
        "contrast_range",
        "saturation_range",
        "hue_delta",
        "swap_channels",
    ),
    "YOLOXHSVRandomAug": ("hue_delta", "saturation_delta", "value_delta"),
}
"""Transforms that leave all pixels, boxes and masks in their places, and their options."""

PLACES: dict[str, tuple[str, ...]] = {
    "Expand": ("mean", "ratio_range", "prob"),
    "MinIoURandomCrop": ("min_ious", "min_crop_size"),
    "RandomCrop": ("crop_size", "crop_type", "allow_negative_crop", "recompute_bbox"),
    "TranslateX": _TRANSLATION,
    "TranslateY": _TRANSLATION,
}
"""Transforms that move pixels, boxes and masks alike, so that a box still is the bounds of what is
visible of its object, and their options."""


_OPTIONS: list[Any] = [
    {
        "if": {"properties": {"type": {"const": name}}},
        "then": {
            "properties": {option: {} for option in ("type", *options)},
            "propertyNames": {"enum": ["type", *options]},
        },
    }
    for name, options in (COLOURS | PLACES).items()
]
"""The options of each transform, in JSON Schema."""


class Augmentation(Settings):
    """A transform by its name in MMDetection's registry, and its options there.

    Those are known that keep boxes and masks true, which a test finds by applying every transform
    to rectangles of one colour: the bounds of a colour, of its mask, and its box stay the same.
    MMDetection's other ones move an object's box but not its mask, or make boxes wider than what
    they are of, or mix images (`augmentation: copy_paste` does), or are the recipe's own (`scales`,
    `flip`).
    """

    model_config = ConfigDict(extra="allow", json_schema_extra={"allOf": _OPTIONS})

    type: Annotated[str, Names(COLOURS, PLACES)]
    """Name of the transform in MMDetection's registry; its options stand beside it."""

    @model_validator(mode="after")
    def _options_are_the_transforms(self) -> "Augmentation":
        known = (COLOURS | PLACES)[self.type]
        if unknown := [name for name in self.options if name not in known]:
            raise ValueError(
                f"{unknown[0]}: unknown option of {self.type}, expected one of {', '.join(known)}"
            )
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The transform's options as they were given."""
        return dict(self.model_extra or {})
