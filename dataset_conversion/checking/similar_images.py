"""Find images that are nearly the same among many: scaled, compressed again, brightened, slightly cropped.

Two images are candidates if their perceptual hashes differ in few bits, and similar if their thumbnails are alike, too.
Comparing all pairs would take time with the square of their number. Hashes that differ in at most 7 of 64 bits are
equal in at least one of their 8 bytes, so only images that have such a byte in common are compared (multi-index
hashing: Norouzi, Punjani and Fleet, arXiv 1307.2982, section 3); and an image that is found to be like another one is
not compared any further.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MAX_HASH_DISTANCE = 7
MIN_CORRELATION = 0.95  # of all colors of two thumbnails
MIN_DETAIL_CORRELATION = 0.85  # of details finer than 3 pixels, which tell two birds in the same sky apart
MAX_CANDIDATES = 2_000_000

_NUM_BYTES = 8
_BLOCK = 32  # images that are compared at once with all earlier ones
_PIECE = 2**14  # pairs of thumbnails likewise
_BITS = np.array([bin(byte).count('1') for byte in range(256)], dtype=np.uint8)


@dataclass(frozen=True)
class SimilarImages:
    """Result of the search.

    Args:
        leader: int64 [N], for each image the first one of its group; itself if it is like no earlier one.
        is_complete: Whether all candidates were looked at.
    """

    leader: np.ndarray
    is_complete: bool


def find_similar(hashes: np.ndarray, thumbnails: np.ndarray, may_match: np.ndarray) -> SimilarImages:
    """Group images that are nearly the same.

    Args:
        hashes: uint64 [N].
        thumbnails: uint8 [N, H, W, C].
        may_match: bool [N], images that are compared; the others are alone in their group.
    """
    hashes = np.ascontiguousarray(hashes)
    search = _Search(hashes, thumbnails)
    for index in range(_NUM_BYTES):
        key = hashes.view(np.uint8).reshape(-1, _NUM_BYTES)[:, index]
        order = np.argsort(key, kind='stable')
        order = order[may_match[order]]
        ends = np.flatnonzero(np.diff(key[order])) + 1
        for bucket in np.split(order, ends):
            search.compare_all(bucket)
    return SimilarImages(_first_of_group(search.leader), search.num_candidates < MAX_CANDIDATES)


def _first_of_group(leader: np.ndarray) -> np.ndarray:
    """Follow the leaders of leaders; each is an earlier image."""
    while True:
        following = leader[leader]
        if np.array_equal(following, leader):
            return leader
        leader = following


class _Search:
    def __init__(self, hashes: np.ndarray, thumbnails: np.ndarray):
        self._hashes, self._thumbnails = hashes, thumbnails
        self.leader = np.arange(len(hashes))
        self.num_candidates = 0

    def compare_all(self, bucket: np.ndarray) -> None:
        """Compare images, given by their indices in ascending order, with each other."""
        earlier = np.zeros(0, dtype=np.int64)
        for start in range(0, len(bucket), _BLOCK):
            rows = self._without_followers(bucket[start : start + _BLOCK])
            self._compare(rows, earlier)
            rows = self._without_followers(rows)
            self._compare(rows, rows)
            earlier = np.concatenate([earlier, self._without_followers(rows)])

    def _without_followers(self, indices: np.ndarray) -> np.ndarray:
        return indices[self.leader[indices] == indices]

    def _compare(self, rows: np.ndarray, columns: np.ndarray) -> None:
        """Make each row a follower of the first earlier column that is like it."""
        distance = _num_differing_bits(self._hashes[rows][:, None], self._hashes[columns][None, :])
        near = (distance <= MAX_HASH_DISTANCE) & (columns[None, :] < rows[:, None])
        row, column = np.nonzero(near)
        pairs = np.stack([rows[row], columns[column]], axis=1)[: MAX_CANDIDATES - self.num_candidates]
        self.num_candidates += len(pairs)
        for start in range(0, len(pairs), _PIECE):
            piece = pairs[start : start + _PIECE]
            similar = piece[are_alike(self._thumbnails[piece[:, 0]], self._thumbnails[piece[:, 1]])]
            follower, first = np.unique(similar[:, 0], return_index=True)
            self.leader[follower] = np.minimum(self.leader[follower], similar[first, 1])


def _num_differing_bits(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    differing = one ^ other
    if hasattr(np, 'bitwise_count'):  # NumPy 2
        return np.bitwise_count(differing)
    return _BITS[differing.view(np.uint8)].reshape(*differing.shape, _NUM_BYTES).sum(axis=-1, dtype=np.uint8)


def are_alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return for each pair of thumbnails, uint8 [N, H, W, C], whether they show the same; bool [N]."""
    first, second = one.astype(np.float32), other.astype(np.float32)
    alike = _correlation(first, second) >= MIN_CORRELATION
    details = (_details(images[alike].mean(axis=3)) for images in (first, second))
    alike[alike] = _correlation(*details) >= MIN_DETAIL_CORRELATION
    return alike


def _details(images: np.ndarray) -> np.ndarray:
    """Return images [N, H, W] less the mean of 3x3 pixels around each."""
    height, width = images.shape[1:]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode='edge')
    neighbors = (padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3))
    return images - sum(neighbors) / 9


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the correlation of each pair of arrays over all but the first axis; [N]."""
    first, second = (images.reshape(len(images), math.prod(images.shape[1:])) for images in (one, other))
    first = first - first.mean(axis=1, keepdims=True)
    second = second - second.mean(axis=1, keepdims=True)
    scale = np.sqrt(np.square(first).sum(axis=1) * np.square(second).sum(axis=1))
    return (first * second).sum(axis=1) / np.maximum(scale, 1e-6)
