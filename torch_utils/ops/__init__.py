"""The operators that the networks and the augmentation lean on.

Each module holds one operator: a textbook version in plain PyTorch (`impl='ref'`), and the fastest way that is
available on this machine (`impl='cuda'`, a name kept from the days when that meant one thing). Both give the same
numbers and can be differentiated twice; the tests hold the second against the first.
"""
