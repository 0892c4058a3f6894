"""Names of metrics and losses: whose they are."""

from bacl_platform.plan.metric_names import measurable, metric_name, metric_of, owner


def test_scalars_have_owners_and_the_machines_are_the_jobs(planned):
    job = planned().jobs[1]
    job = job.model_copy(update={"variants": {**job.variants, "system": job.variants["bacl"]}})
    assert owner("bacl/AP", job) == ("bacl", "AP")
    assert owner("s0.bacl.loss_cls", job) == ("bacl", "s0.loss_cls")
    assert owner("system/AP", job) == ("system", "AP")
    name = "system/rank0/step_seconds"
    assert owner(name, job) == (None, name)


def test_metric_of_a_variant_is_found_again_and_losses_are_none(planned):
    job = planned().jobs[1]
    assert metric_name("bacl", "AP_r") == "bacl/AP_r"
    assert metric_of("bacl/AP_r", job) == ("bacl", "AP_r")
    for other in ("bacl.loss_cls", "s0.bacl.loss_cls", "nobody/AP", "step", "system/rank0/time"):
        assert metric_of(other, job) is None


def test_measurable_are_metrics_of_boxes_and_of_masks_where_there_are_any():
    boxes = measurable("rc", False)
    assert boxes[:7] == ["AP", "AP50", "AP75", "AP_r", "AP_c", "APFixed", "APFixed_r"]
    assert boxes[7:] == [
        *("APFixed_c", "APPool", "APPool_r", "APPool_c", "AR", "AR_r", "AR_c"),
        *("ECE", "ECE_r", "ECE_c"),
    ]
    # those of AP-Fixed are there only where no detection lies beyond the limit
    masks = ["mask_AP", "mask_AP50", "mask_AP75", "mask_AP_r", "mask_AR", "mask_AR_r"]
    assert measurable("r", True) == [
        *measurable("r", False),
        *masks,
        "boundary_AP",
        "boundary_AP_r",
    ]
