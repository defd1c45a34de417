# A small image for clusters: the installed package with what it needs at run time, for CPUs and CUDA GPUs. It contains
# no compiler, no CUDA toolkit, no tests and no tools of developers. In the folder of the checkout:
#
#   docker build --tag ada-gan-slim --file docs/clusters/slim.Dockerfile .
#   docker build --tag ada-gan-slim --file docs/clusters/slim.Dockerfile \
#       --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .              without CUDA
#   IMAGE=ada-gan-slim ./docker_run.sh ada-gan train --data=photos.zip --outdir=runs --dry-run
#
# CUDA kernels are compiled by NVRTC, which PyTorch's wheels bring. On a CPU, the operators run as plain PyTorch.
# scripts/image_without_docker.py executes these steps on a machine without Docker.
FROM debian:bookworm-slim AS base
RUN apt-get update && apt-get install --yes --no-install-recommends python3 ca-certificates \
    && rm -rf /var/lib/apt/lists/*

# pip stays in this stage; the last one gets the environment without it.
FROM base AS build
ARG TORCH_INDEX=https://pypi.org/simple
ARG EXTRAS=fast,video,safetensors,tensorboard
RUN apt-get update && apt-get install --yes --no-install-recommends python3-venv
RUN python3 -m venv /opt/tools && python3 -m venv --without-pip /opt/ada-gan
COPY requirements.txt /tmp/requirements.txt
RUN grep '^torch==' /tmp/requirements.txt > /tmp/torch.txt \
    && /opt/tools/bin/pip --python /opt/ada-gan/bin/python install --no-cache-dir --index-url "$TORCH_INDEX" \
        --requirement /tmp/torch.txt
COPY . /tmp/source
RUN /opt/tools/bin/pip --python /opt/ada-gan/bin/python install --no-cache-dir --constraint /tmp/requirements.txt \
        "/tmp/source[$EXTRAS]"
# Headers, which only compilers read
RUN rm -rf /opt/ada-gan/lib/python3*/site-packages/torch/include

FROM base
ENV PATH=/opt/ada-gan/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 \
    DNNLIB_CACHE_DIR=/cache/dnnlib \
    TORCH_EXTENSIONS_DIR=/cache/torch_extensions \
    HOME=/cache/home
COPY --from=build /opt/ada-gan /opt/ada-gan

# Like /tmp, these folders are writable for every user.
RUN mkdir -p /cache/home /cache/dnnlib /cache/torch_extensions /workspace && chmod -R 1777 /cache /workspace
VOLUME /cache

RUN useradd --no-create-home --home-dir /cache/home gan
USER gan
WORKDIR /workspace
CMD ["ada-gan", "--help"]
