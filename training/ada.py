"""Adaptive discriminator augmentation: the controller of the strength p (arXiv 2006.06676, section 3.1)."""

import numpy as np

from torch_utils import training_stats

SIGN_STATISTIC = 'Loss/signs/real'


class AdaController:
    """Keeps r_t = E[sign D(real)] near a target by making augmentation stronger or weaker.

    Args:
        augment_pipe: Its buffer `p` is adjusted in place.
        target: Wanted r_t.
        interval: Batches between adjustments.
        ada_kimg: Thousands of images over which p can go from 0 to 1.
        batch_size: Images a batch, over all ranks.
    """

    def __init__(self, augment_pipe, target, interval, ada_kimg, batch_size):
        self.augment_pipe = augment_pipe
        self.target = target
        self.interval = interval
        self.max_change = batch_size * interval / (ada_kimg * 1000)
        self.signs = training_stats.Collector(regex=SIGN_STATISTIC, keep_previous=False)

    def after_batch(self, batch_idx):
        """Adjust p where it is time; to be called after each batch, on all ranks."""
        if batch_idx % self.interval != 0:
            return
        self.signs.update()
        if self.signs.num(SIGN_STATISTIC) == 0:
            return
        change = float(np.sign(self.signs[SIGN_STATISTIC] - self.target)) * self.max_change
        self.augment_pipe.p.add_(change).clamp_(min=0)

    def state_dict(self):
        """The statistics under way, between two adjustments; p itself is in the pipe."""
        return self.signs.state_dict()

    def load_state_dict(self, state):
        self.signs.load_state_dict(state)
