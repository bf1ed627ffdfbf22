"""`sheepfold support-bundle`: what somebody who is asked for help needs to see, without secrets."""
