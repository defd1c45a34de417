# An image with everything the scripts use, for CPUs and CUDA GPUs. docker_run.sh builds and runs it.
#
# PyTorch's wheels bring the CUDA libraries, and CUDA kernels are compiled by NVRTC, which is among them: no CUDA toolkit
# is needed, only the NVIDIA driver and container toolkit on the host. On a CPU, the operators run as plain PyTorch. To
# use the faster C++ kernels there, add a compiler: RUN apt-get update && apt-get install --yes g++
FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    DNNLIB_CACHE_DIR=/cache/dnnlib \
    TORCH_EXTENSIONS_DIR=/cache/torch_extensions \
    HOME=/cache/home

# The pinned versions of the project's dependencies with all extras. The code itself is mounted at run time.
COPY requirements.txt /tmp/requirements.txt
RUN pip install --no-cache-dir -r /tmp/requirements.txt && rm /tmp/requirements.txt

# Downloads and compiled kernels outlive a container on this volume. Like /tmp, it is writable for every user.
RUN mkdir -p /cache/home /cache/dnnlib /cache/torch_extensions && chmod -R 1777 /cache
VOLUME /cache

RUN useradd --no-create-home --home-dir /cache/home gan
USER gan
WORKDIR /workspace
