"""What experiment files say of methods: settings, and the card of each. Without torch, like
`bacl.settings`.

A method's parts are in `bacl.fcbl`, `bacl.variants` and `bacl/methods/`, by the same name.
"""
