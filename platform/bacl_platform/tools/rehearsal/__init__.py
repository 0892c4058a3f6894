"""`bacl rehearse`: every stage for some steps at full size, where and as it would run, and what
that says of the whole run.

`images` chooses what is shown, `jobs` makes jobs of it, `scratch` a store for them, `probes` tries
what jobs do not; `rehearse` does all of it, `forecast` and `advice` draw conclusions, `show` prints
them.
"""
