"""`sheepfold export`: versions of a job as files, written by a process of its own: no step waits for it.

`files` writes one export so that a broken one is never seen, `average` is the moving average of the weights,
`exporter` follows the job and decides what is written.
"""
