"""Quality metrics: the mathematics, and the features that it works on."""
