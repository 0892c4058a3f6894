# torchvision's maskrcnn_resnet50_fpn_v2: with its weights, the detections of its own code.
_base_ = "torchvision_mask-rcnn_r50_fpn.py"

norm_cfg = dict(type="BN")
model = dict(
    neck=dict(norm_cfg=norm_cfg),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(type="Shared4Conv1FCBBoxHead", norm_cfg=norm_cfg),
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)
