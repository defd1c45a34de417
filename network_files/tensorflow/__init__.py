"""TensorFlow pickles of StyleGAN2 and StyleGAN2-ADA, converted to networks of this project.

Such a pickle contains objects of `dnnlib.tflib.network.Network`: the name and the source of the function that created
the network, the keywords it was called with (`static_kwargs`), its variables by name, and for a generator two further
networks, mapping and synthesis (`components`). The source is ignored. `sources` reads these objects, `keywords` and
`variables` are tables that say what keywords and variables are called here and how arrays are laid out, and
`conversion` builds our networks. Anything that is in no table is an error that names it.
"""
