"""The dense peak rates of NVIDIA cards, by the name that the driver gives them.

Data sheets state the rates of tensor cores with 2:4 sparsity, which training does not use, beside or instead of the
dense ones: half of them is meant here. All are for results accumulated in float32, and at the card's boost clock, which
a power limit may not let it reach. Rates of cards that are not listed are unknown, not zero.
"""

from __future__ import annotations

from typing import NamedTuple


class CardPeak(NamedTuple):
    """Dense TFLOP/s of one card by the type of the factors; None: its tensor cores do not know the type."""

    fp32: float  # without tensor cores
    tf32: float | None
    fp16: float
    bf16: float | None


def _volta(fp32: float, fp16: float) -> CardPeak:
    return CardPeak(fp32, None, fp16, None)


def _ampere(fp32: float, tf32: float, half: float) -> CardPeak:
    """Return the rates of a card of Ampere or later, which are the same for both half types."""
    return CardPeak(fp32, tf32, half, half)


_V100_SXM2, _V100_PCIE = _volta(15.7, 125), _volta(14.0, 112)
_A100 = _ampere(19.5, 156, 312)
_H100_SXM = _ampere(67, 494.7, 989.4)

CARD_PEAKS: dict[str, CardPeak] = {
    # NVIDIA V100 Tensor Core GPU data sheet
    'Tesla V100-SXM2-16GB': _V100_SXM2,
    'Tesla V100-SXM2-32GB': _V100_SXM2,
    'Tesla V100-PCIE-16GB': _V100_PCIE,
    'Tesla V100-PCIE-32GB': _V100_PCIE,
    'Tesla V100S-PCIE-32GB': _volta(16.4, 130),
    # NVIDIA T4 data sheet
    'Tesla T4': _volta(8.1, 65),
    # NVIDIA A100 Tensor Core GPU data sheet
    'NVIDIA A100-SXM4-40GB': _A100,
    'NVIDIA A100-SXM4-80GB': _A100,
    'NVIDIA A100-PCIE-40GB': _A100,
    'NVIDIA A100 80GB PCIe': _A100,
    # NVIDIA A30, A10 and A40 data sheets
    'NVIDIA A30': _ampere(10.3, 82, 165),
    'NVIDIA A10': _ampere(31.2, 62.5, 125),
    'NVIDIA A40': _ampere(37.4, 74.8, 149.7),
    # NVIDIA L4, L40 and L40S data sheets
    'NVIDIA L4': _ampere(30.3, 60, 121),
    'NVIDIA L40': _ampere(90.5, 90.5, 181.05),
    'NVIDIA L40S': _ampere(91.6, 183, 362.05),
    # NVIDIA H100 and H200 Tensor Core GPU data sheets
    'NVIDIA H100 80GB HBM3': _H100_SXM,
    'NVIDIA H100 PCIe': _ampere(51, 378, 756),
    'NVIDIA H100 NVL': _ampere(60, 417.5, 835.5),
    'NVIDIA H200': _H100_SXM,
    'NVIDIA H200 NVL': _ampere(60, 417.5, 835.5),
    # NVIDIA Ampere GA102 GPU architecture white paper
    'NVIDIA GeForce RTX 3080': _ampere(29.8, 29.8, 59.5),
    'NVIDIA GeForce RTX 3090': _ampere(35.6, 35.6, 71.2),
    'NVIDIA RTX A6000': _ampere(38.7, 77.4, 154.8),
    # NVIDIA Ada GPU architecture white paper
    'NVIDIA GeForce RTX 4080': _ampere(48.7, 48.7, 97.5),
    'NVIDIA GeForce RTX 4090': _ampere(82.6, 82.6, 165.2),
    'NVIDIA RTX 6000 Ada Generation': _ampere(91.1, 182.1, 364.2),
}


def peak_of(name: str) -> CardPeak | None:
    """Return the rates of the card with this name (`torch.cuda.get_device_name`), or None if they are not known."""
    return CARD_PEAKS.get(name)
