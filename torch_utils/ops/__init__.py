"""The operators that the networks and the augmentation lean on.

Each module holds one operator: a textbook version in plain PyTorch (`impl='ref'`), and the fastest way that is
available on this machine (`impl='cuda'`, a name kept from the days when that meant one thing): kernels for the CPU
(`cpu_kernels`, C++, compiled on first use) or for CUDA (`cuda_kernels`), else a faster arrangement of PyTorch's own
operators. All give the same numbers and can be differentiated twice; the tests hold them against the first.
`native` chooses, and `python -m torch_utils.ops` tells what was chosen and tests it.
"""
