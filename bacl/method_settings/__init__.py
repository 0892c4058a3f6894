"""Settings of methods in experiment files, and the card of each method. Without torch, like
`bacl.settings`.

A method's parts are in `bacl.fcbl`, `bacl.variants` and `bacl/methods/`, by the same name.
"""
