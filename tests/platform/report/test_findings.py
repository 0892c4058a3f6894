"""Sections of a report: what they hold, and which images they show."""

import pytest

from bacl.errors import UsageError
from bacl_platform.report import findings


def test_sections_name_confusions_and_show_images(flawed, prepared, analysed):
    lost, confused, differing = findings.sections(flawed, analysed, None, 0.3, 2)
    files = [picture.file for picture in lost.pictures]
    assert files == ["precision_recall.png", "errors.png", "confusion.png"]
    (table,) = confused.tables
    assert table.head[:2] == ["head ← tail", "training images"]
    head, tail = table.body[0][0].split(" ← ")
    counts = {category.name: category.image_count for category in prepared.categories}
    assert counts[head] > counts[tail]
    assert table.body[0][1] == f"{counts[head]} ← {counts[tail]}"
    assert [picture.file for picture in differing.pictures] == ["scene_1.png", "scene_2.png"]
    assert "softmax, bacl, features" in differing.paragraphs[0]


def test_no_images_are_drawn_where_none_are_asked_for(flawed, analysed):
    titles = [section.title for section in findings.sections(flawed, analysed, None, 0.3, 0)]
    assert titles == ["Where the AP is lost", "Top confusions, head ← tail"]


def test_masks_have_sections_of_their_own(masked_study, masked_analysis):
    made = findings.sections(masked_study, masked_analysis, None, 0.3, 0)
    titles = [section.title for section in made]
    assert titles == [
        "Where the AP is lost",
        "Where the mask AP is lost",
        "Top confusions, head ← tail",
    ]
    boxes, masks, _ = made
    assert "All of this is of boxes; masks follow." in boxes.paragraphs[0]
    files = [picture.file for picture in boxes.pictures]
    assert [picture.file for picture in masks.pictures] == [f"mask_{file}" for file in files]
    assert all("of masks" in picture.title for picture in masks.pictures)
    assert masks.paragraphs[0].endswith("Not among them, for want of masks: features.")


def test_unknown_variant_to_draw_is_told(flawed, analysed):
    with pytest.raises(UsageError, match="among features, bacl, softmax, got nobody"):
        findings.sections(flawed, analysed, ["bacl", "nobody"], 0.3, 2)
