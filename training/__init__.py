"""Training: data, networks, augmentation, losses and the loop."""
