"""Published speeds of StyleGAN2's training: seconds per 1000 images (s/kimg), by resolution and GPU.

They are those of the published PyTorch implementation in half precision. This project has not measured them.
"""

from __future__ import annotations

PUBLISHED_BATCH = 32  # images per step, over all GPUs: an assumption
ONE_GPU_SEC_PER_KIMG = {
    128: {'V100': 12.51, 'A100': 6.79},
    256: {'V100': 20.84, 'A100': 12.53},
    512: {'V100': 71.59, 'A100': 41.06},
    1024: {'V100': 141.83, 'A100': 90.39},
}
EIGHT_GPUS_SEC_PER_KIMG = {
    256: {'V100': 3.89, 'A100': 2.38},
    1024: {'V100': 18.47, 'A100': 11.66},
}
