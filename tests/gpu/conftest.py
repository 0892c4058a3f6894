import bacl.register  # noqa: F401  before anything imports mmdet.models
