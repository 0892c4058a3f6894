"""The experiment on the embedded set that benches of whole jobs run."""

from bacl_platform.bench.measure import IMAGES

STEPS = {IMAGES["small"]: (140, 60, "small", 4), IMAGES["full"]: (700, 300, "standard", 8)}
"""Steps of stages 1 and 2, size of the embedded set and c, by the bench's scale."""

EXPERIMENT = """
name: bench
dataset: {{format: embedded, size: {size}}}
detector:
  backbone: tiny
  neck_channels: 48
  fc_channels: 128
  anchor_scale: 6
  rpn_samples: 128
  roi_samples: 64
  test_proposals: 200
  max_detections: 30
stages:
  representation:
    kind: representation
    recipe: &recipe
      schedule: {{iterations: {features}, lr: 0.01, warmup: {warmup}}}
      scales: [[128, 128]]
      test_scale: [128, 128]
      proposals: 200
      proposals_before_nms: 200
      loader_workers: 0
    resources: &cores {{cpus: {threads}}}
  classifier:
    kind: classifier
    after: representation
    variants: {{bacl: {{method: bacl, hallucination: {{categories: {drawn}}}}}}}
    recipe:
      <<: *recipe
      schedule: {{iterations: {heads}, warmup: 10}}
    resources: *cores
"""


def experiment(size: str, features: int, heads: int, drawn: int, threads: int) -> str:
    """The experiment in YAML. features, heads: steps of stages 1 and 2; drawn: categories that
    features are made for in a step (c of the paper); threads: CPUs of each job."""
    return EXPERIMENT.format(
        size=size,
        features=features,
        warmup=features // 7,
        heads=heads,
        drawn=drawn,
        threads=threads,
    )
