"""Categories, and what they are known by."""

from pydantic import BaseModel

Id = int | str
"""What a file calls an image, an annotation or a category: a whole number of any size, or text."""


class Category(BaseModel):
    """A category and how often the training split shows it."""

    id: Id
    """The annotation file's own."""
    name: str
    frequency: str
    """Name of its frequency group, `settings.Groups`; LVIS has r, c and f."""
    image_count: int
    instance_count: int
