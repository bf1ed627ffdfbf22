"""An append-only log of records in preallocated segments: written by one process, read whole at its start.

`records` is the format of one record, `segment` of one file, `reading` the sequence of them, `log` appends to
it, `values` turns the core's records to text and back.
"""
