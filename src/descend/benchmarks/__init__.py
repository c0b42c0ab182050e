"""Benchmarks: what a step takes beside torch's own, beside the memory's bandwidth, and what the first one takes.

`targets.py` holds what is measured and the numbers it is held to; `timing.py` takes turns and medians;
`contestants.py` builds what is timed; `cases.py`, `bandwidth.py` and `footprint.py` each measure one subject and yield
tables, which `page.py` writes as Markdown.
"""
