"""What an image, a label and a size may be in a dataset: shared by conversion, training, metrics and generation."""
