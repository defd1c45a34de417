"""Convert collections of images to the dataset format that training reads.

`sources` lists the images of a collection, `loading` decodes them, `transforms` brings them to the output size, and
`writer` stores them; `convert` runs these steps for all images in several processes. Nothing here needs PyTorch.
"""
