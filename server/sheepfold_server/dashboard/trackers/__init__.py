"""Mirrors of step reports in TensorBoard, W&B or MLflow: one run a job, written by the dashboard process.

`scalars` says what is written, `mirror` when, `choose` by whom; one module for each tracker.
"""
