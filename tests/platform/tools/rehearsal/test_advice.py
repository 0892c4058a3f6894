"""Memory that does not fit, and the settings that would, worked out by hand.

A rank takes 3 GiB, 1 of them before it sees images; 8 images are in memory together.
"""

import ast

import pytest

from bacl_platform.tools.rehearsal.advice import GIB, needs, settings_that_fit
from bacl_platform.tools.rehearsal.rehearse import lacking


@pytest.fixture
def heads(planned):
    """The tiny experiment's second stage with a batch of 8, and other changes."""

    def made(*overrides):
        recipe = "stages.heads.recipe"
        changes = [f"{recipe}.{change}" for change in ("schedule.batch=8", *overrides)]
        return planned(*changes).jobs[1]

    return made


def with_resources(job, **asked):
    return job.model_copy(update={"resources": job.resources.model_copy(update=asked)})


def settings(job, figures):
    (need,) = [need for need in needs(job, figures) if need.lacks > 0]
    found = settings_that_fit(job, need, figures)
    return [text.removeprefix("stages.heads.").split(" (")[0] for text in found]


def test_what_fits_lacks_nothing(heads, figures):
    assert all(need.lacks <= 0 for need in needs(heads(), figures()))


def test_memory_that_ray_sets_aside_is_the_limit(heads, figures):
    (need,) = needs(with_resources(heads(), memory=2.5), figures())
    assert (need.most, need.room, need.lacks) == (3 * GIB, 2.5 * GIB, 0.5 * GIB)
    (need,) = needs(with_resources(heads(), memory=20), figures())
    assert need.room == 8 * GIB  # which a machine has no more of


def test_parts_are_the_fewest_that_fit(heads, figures):
    # in n parts: 1 + 2/n GiB, of which 95 % of what there is may be used
    assert settings(with_resources(heads(), memory=2.2), figures())[0] == "recipe.accumulate=2"
    assert settings(with_resources(heads(), memory=1.7), figures())[0] == "recipe.accumulate=4"
    # three parts would fit 1.8 GiB, but leave no whole pairs
    assert settings(with_resources(heads(), memory=1.8), figures())[0] == "recipe.accumulate=4"
    again = settings(with_resources(heads("accumulate=2"), memory=2.2), figures(pass_images=4))
    assert again[0] == "recipe.accumulate=4"


def test_images_stay_in_pairs(heads, figures):
    assert "recipe.accumulate" not in str(
        settings(with_resources(heads(), memory=2.9), figures(pass_images=2))
    )


def test_loader_workers_come_first(heads, figures):
    job = with_resources(heads("loader_workers=4"), memory=2.5)
    known = figures(loaders=int(1.2 * GIB), loader_workers=4)
    assert settings(job, known)[0] == "recipe.loader_workers=1"  # 3 - 3/4 x 1.2 < 0.95 x 2.5


def test_smaller_banks_are_proposed_where_weights_weigh(heads, figures):
    job = with_resources(heads(), memory=2.8)
    assert "variants_per_job=1" in settings(job, figures(bank_bytes=GIB // 2))
    assert "variants_per_job=1" not in settings(job, figures(bank_bytes=GIB // 100))


def test_more_memory_is_proposed_where_machines_have_it(heads, figures):
    job = with_resources(heads(), memory=2.5)
    assert "resources.memory=3.2" in settings(job, figures())
    assert "resources.memory" not in str(settings(job, figures(host_room=int(3.1 * GIB))))


def test_scales_shrink_until_they_fit(heads, figures):
    job = with_resources(heads("scales=[[1333, 640], [1333, 800]]"), memory=2.5)
    (found,) = [text for text in settings(job, figures()) if "scales" in text]
    scales = ast.literal_eval(found.split("=")[1])
    share = scales[1][0] / 1333
    assert (1 + 2 * share**2) <= 0.95 * 2.5 < (1 + 2 * (share + 0.03) ** 2)
    assert scales[0][1] == pytest.approx(640 * share, abs=1)


def test_gpu_has_ways_of_its_own(heads, figures):
    known = figures(gpu=10 * GIB, gpu_room=9 * GIB, gpu_fixed=2 * GIB)
    ways = settings(heads(), known)
    assert ways[:2] == ["recipe.accumulate=2", "resources.workers=2"]
    assert "recipe.precision=bfloat16" in ways and "memory" not in str(ways)
    assert "bfloat16" not in str(settings(heads("precision=bfloat16"), known))


def test_sentence_says_how_much_is_missing_and_what_would_fit(heads, figures):
    job = with_resources(heads(), memory=2.2)
    (need,) = needs(job, figures())
    told = str(lacking(job, need, figures()))
    assert told.startswith(
        "stage heads: a worker takes 3.00 GiB, which is 0.80 GiB more than the 2.20 GiB that "
        "stages.heads.resources.memory sets aside; each of these would fit by an estimate: "
        "stages.heads.recipe.accumulate=2 (about 2.00 GiB), "
    )


def test_what_nothing_mends_is_told(heads, figures):
    known = figures(gpu=10 * GIB, gpu_room=1 * GIB, gpu_fixed=2 * GIB)
    (_, need) = needs(heads(), known)
    told = str(lacking(heads(), need, known))
    assert "9.00 GiB more than the 1.00 GiB of its GPU: no single setting makes that fit" in told
