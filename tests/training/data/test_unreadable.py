"""Images that cannot be read: replaced, always by the same ones, counted and named."""

import pytest
import torch

from torch_utils import distributed, training_stats
from training.data.decoding import ImageError
from training.data.unreadable import MAX_SUBSTITUTES, STATISTIC, ReadableImages, SkippedImages

WORLD = distributed.World(0, 1, torch.device('cpu'))


class Numbers:
    """A dataset whose images are their indices, of which some cannot be read."""

    def __init__(self, length, damaged):
        self.length, self.damaged, self.reads = length, set(damaged), []

    def __len__(self):
        return self.length

    def __getitem__(self, idx):
        self.reads.append(idx)
        if idx in self.damaged:
            raise ImageError(f'image {idx} cannot be read.')
        return idx, -idx


def test_sound_images_are_themselves():
    images = ReadableImages(Numbers(50, damaged=[3]))
    assert len(images) == 50
    assert [images[i] for i in (0, 2, 49)] == [(0, 0, ''), (2, -2, ''), (49, -49, '')]


def test_a_damaged_one_always_has_the_same_sound_substitute():
    damaged = range(0, 50, 2)
    first, again = (ReadableImages(Numbers(50, damaged)) for _ in range(2))
    for idx in damaged:
        image, label, sentence = first[idx]
        assert image % 2 == 1 and label == -image and sentence == f'image {idx} cannot be read.'
        assert first[idx] == again[idx]
    assert len({first[idx][0] for idx in damaged}) > 10  # Not one for all.


def test_a_strict_run_gets_the_error():
    with pytest.raises(ImageError, match='^image 3 cannot be read.$'):
        ReadableImages(Numbers(50, damaged=[3]), strict=True)[3]


def test_where_nothing_can_be_read_it_is_an_error_after_some_tries():
    dataset = Numbers(50, damaged=range(50))
    message = r'^image 3 cannot be read\. None of 10 other images could be read in its place\.$'
    with pytest.raises(ImageError, match=message):
        ReadableImages(dataset)[3]
    assert len(dataset.reads) == 1 + MAX_SUBSTITUTES


def test_each_is_counted_every_time_and_named_once(capsys):
    training_stats.reset()
    collector = training_stats.Collector()
    skipped = SkippedImages()
    for sentences in (['', 'b.', 'a.', ''], ['b.', '', '', '']):
        skipped.add(sentences)
    collector.update()
    assert collector.num(STATISTIC) == 8 and collector.mean(STATISTIC) == 3 / 8
    for expected in (['a.', 'b.'], []):
        skipped.print_new(WORLD)
        lines = capsys.readouterr().out.splitlines()
        assert lines == [
            f'Warning: {name} Another image is shown in its place (--strict-data=1 would stop here).'
            for name in expected
        ]
    training_stats.reset()
