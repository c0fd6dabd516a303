"""How fast, and how good, next to what others would run: ``python -m cliplib.bench``.

A job is a function in a module of this package whose name begins with ``jobs_``, marked with
`cliplib.bench.measure.job`. It returns rows, each a number of ours beside a peer's. To add one,
write the function: it is found by its name. Sizes are keyword arguments, so that a test can ask
for tiny ones.
"""
