"""The operators that the networks and the augmentation are built on.

Each module implements one operator: a reference in plain PyTorch (`impl='ref'`), and the fastest implementation that is
available on this machine (`impl='cuda'`, a name kept for compatibility): native kernels for the CPU (`cpu_kernels`,
C++, compiled on first use) or for CUDA (`cuda_kernels`), else an efficient formulation in PyTorch's own operators. All
implementations compute the same values and can be differentiated twice; the tests compare them with the reference.
`native` makes the choice, and `python -m torch_utils.ops` shows and tests it.
"""
