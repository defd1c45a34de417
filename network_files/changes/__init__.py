"""Other sizes, channels, labels and widths for trained networks, so that they compute at first what they did before.

`conversion.convert` turns G, D and G_ema into networks of another architecture, by one step after another: `labels`
(classes), `colors` (channels of the images), `resolutions`, and `widths` (channels of the layers). `architectures` says
what the architecture of a network is. A step is exact where the networks allow it; where they do not, `fitting` chooses
the layers at the seam by least squares, and what is left of the difference is measured. What nothing can be taken for
starts from random values, and is listed.
"""
