"""Experiments: trials of optimizers on tasks, and the honest comparison made of them.

`compare.py` is the protocol; `loop.py` trains, `trial.py` is one run and its record, `search_space.py` declares what
is tuned, `store.py` and `run_directory.py` keep it so that a kill loses at most the running trial, `results.py` sums
it up.
"""
