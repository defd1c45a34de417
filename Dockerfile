# Everything the scripts need, on a GPU or without one. docker_run.sh builds and uses it.
# The devel image has nvcc, with which native kernels are built on first use.
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        build-essential cmake python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    DNNLIB_CACHE_DIR=/cache/dnnlib \
    TORCH_EXTENSIONS_DIR=/cache/torch_extensions \
    HOME=/cache/home

COPY requirements.txt /tmp/requirements.txt
RUN python3 -m venv /opt/venv \
    && pip install --no-cache-dir -r /tmp/requirements.txt \
    && rm /tmp/requirements.txt

# Downloads and built kernels outlive a container on this volume; any user may write there, as in /tmp.
RUN mkdir -p /cache/home /cache/dnnlib /cache/torch_extensions && chmod -R 1777 /cache
VOLUME /cache

RUN useradd --no-create-home --home-dir /cache/home gan
USER gan
WORKDIR /workspace
