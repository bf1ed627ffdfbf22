"""An append-only log of records in preallocated segments: written by one process, read whole at its start.

`records` is the format of one record, `segment` of one file, `log` the sequence of them, `values` turns the
core's records to text and back.
"""
