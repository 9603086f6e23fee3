"""From a fastai learner to a model directory in pure PyTorch; the file is looked at here, and loaded in a sandbox only."""
