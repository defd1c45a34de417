"""Turn image collections of many kinds into the one dataset format that training reads.

The way of an image: `sources` finds it and decodes it, `labels` says what it shows, `transforms` brings it to
the wanted size, `writer` stores it. `convert` runs these four over all images on many processes.
Nothing here needs PyTorch.
"""
