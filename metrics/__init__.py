"""Quality metrics of generators.

`metric_table` lists them, one module each has their mathematics, `features` looks at the images, and `evaluation`
connects the three.
"""
