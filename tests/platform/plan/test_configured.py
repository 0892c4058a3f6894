"""Plans of detectors that a configuration of MMDetection's describes."""

import pytest

from bacl.errors import UsageError
from bacl_platform.spec.load import load, load_unresolved
from bacl_platform.spec.yaml_files import data_paths, read_with_bases

NAME = "faster-rcnn_r50-caffe_c4-1x_coco"


@pytest.fixture
def configured(tiny):
    """The tiny experiment's file with a detector by its configuration."""
    text = tiny.read_text()
    start = text.index("detector:")
    end = text.index("\nstages:")
    path = tiny.with_name("configured.yaml")
    path.write_text(text[:start] + f"detector: {{config: {NAME}}}" + text[end:])
    return path


def test_detector_by_name_has_jobs_whose_keys_are_of_its_content(configured, planned, tmp_path):
    plan = planned(f"detector={{config: {NAME}}}", "name=other")
    (features, heads) = plan.jobs
    assert heads.config["model"]["freeze"] == ["backbone", "roi_head.shared_head"]
    assert features.config["model"]["roi_head"]["bbox_head"]["type"] == "BankBBoxHead"
    assert features.result_versions["detector.config"] == 1
    # a file with the same content under another name gives the same keys
    own = tmp_path / "mine.py"
    own.write_text(f"_base_ = 'mmdet::faster_rcnn/{NAME}.py'\n")
    again = planned(f"detector={{config: {own}}}", "name=other")
    assert [job.key for job in again.jobs] == [job.key for job in plan.jobs]
    own.write_text(
        f"_base_ = 'mmdet::faster_rcnn/{NAME}.py'\nmodel = dict(backbone=dict(frozen_stages=2))\n"
    )
    changed = planned(f"detector={{config: {own}}}", "name=other")
    assert {job.key for job in changed.jobs}.isdisjoint(job.key for job in plan.jobs)


def test_detector_that_is_no_two_stage_one_is_told_by_the_plan(planned):
    with pytest.raises(UsageError, match=r"detector\.config retinanet_r50_fpn_1x_coco: RetinaNet"):
        planned("detector={config: retinanet_r50_fpn_1x_coco}")


def test_features_of_a_cascade_are_refused_with_the_stage(planned):
    with pytest.raises(UsageError, match=r"stages\.stored\.kind: expected no stage of kind feat"):
        planned("stages.stored={kind: features, after: features}", "detector.type=cascade_rcnn")


def test_file_of_a_base_means_one_from_the_folder_of_the_base(configured, tmp_path):
    configured.write_text(configured.read_text().replace(NAME, "mine.py"))
    below = tmp_path / "further" / "own.yaml"
    below.parent.mkdir()
    below.write_text(f"name: own\nbase: {configured}\n")
    assert load(below).detector.config == str(configured.parent / "mine.py")
    assert data_paths(read_with_bases(configured))["detector.config"] == "mine.py"


def test_name_of_a_base_stays_a_name(configured, tmp_path):
    below = tmp_path / "own.yaml"
    below.write_text(f"name: own\nbase: {configured}\n")
    assert load(below).detector.config == NAME
    assert "detector.config" not in data_paths(read_with_bases(below))


def test_config_beside_its_short_form_is_told(configured):
    with pytest.raises(UsageError, match=r"detector: config .* has its own backbone: expected"):
        load_unresolved(configured, ["detector.backbone=tiny"])
