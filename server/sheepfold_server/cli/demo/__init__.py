"""`sheepfold demo`: the whole system on this machine, from nothing to a trained model."""
