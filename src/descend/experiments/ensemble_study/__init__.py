"""What the snapshots of a finished comparison are worth, at equal training cost: the study behind `descend ensemble`.

`jobs` is what is done and kept, job by job; `controls` trains what the run does not hold; `scoring` judges everything
of one seed on the test set; `landscape` measures what lies between the snapshots; `results` sums up.
"""
