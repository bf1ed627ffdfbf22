"""`sheepfold doctor`: what keeps a worker on this machine from its servers, one line for each check.

`results` holds a check's outcome, `reach`, `security` and `machine` decide on what was measured, `network`,
`calls` and `measures` measure it, `servers` and `examine` put the checks in order.
"""
