"""Settings of methods in experiment files, and the card of each method. Without torch, like
`bacl.settings`.

`paper` has the paper's own; those of other authors are by kind in `suppression` (which categories a
sample discourages), `priors` (weights and margins from counts), `adaptive` (losses that follow
scores or gradients), `resampling` (more samples or features of rare categories) and `classifiers`;
`registry` names them all. A method's parts are in `bacl.fcbl`, `bacl.variants` and `bacl/methods/`,
by the same name.
"""
