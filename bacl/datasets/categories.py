"""Categories of a dataset and the type of their ids."""

from pydantic import BaseModel

Id = int | str
"""Id of an image, an annotation or a category in a file: a whole number of any size, or text."""


class Category(BaseModel):
    """A category and how often the training split shows it."""

    id: Id
    """The id in the annotation file."""
    name: str
    frequency: str
    """Name of its frequency group, `settings.Groups`; LVIS has r, c and f."""
    image_count: int
    instance_count: int
