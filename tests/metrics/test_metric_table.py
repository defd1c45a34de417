"""Names of metrics: their parts, the published ones, errors, and names for results of stand-in detectors."""

import pytest

from metrics.metric_spec import MetricName
from metrics.metric_table import (
    EXAMPLES,
    find_metric,
    needing_detector,
    needing_transform,
    parse_names,
    requiring_held_out,
    using_held_out,
    with_held_out,
)

PUBLISHED = {
    'fid50k_full',
    'kid50k_full',
    'pr50k3_full',
    'ppl2_wend',
    'is50k',
    'fid50k',
    'kid50k',
    'pr50k3',
    'ppl_zfull',
    'ppl_wfull',
    'ppl_zend',
    'ppl_wend',
    'eqt50k_int',
    'eqt50k_frac',
    'eqr50k',
}
OURS = {
    'prdc50k3_full',
    'cleanfid50k_full',
    'cleankid50k_full',
    'fd_dinov2_50k_full',
    'fidinf50k_full',
    'cmmd50k_full',
    'memorization5k',
    'memorization5k_vgg',
    'memorization5k_dinov2',
    'memorization5k_clip',
}


def test_the_published_names():
    assert set(EXAMPLES) == {*PUBLISHED, *OURS}
    assert len(EXAMPLES) == len(PUBLISHED) + len(OURS)
    for text in EXAMPLES:
        assert find_metric(text)[1].text == text


@pytest.mark.parametrize(
    'text, prefix, expected',
    [
        ('fid50k_full', 'fid', MetricName('fid50k_full', 50_000, full=True)),
        ('fid5k', 'fid', MetricName('fid5k', 5_000)),
        ('fid500_full', 'fid', MetricName('fid500_full', 500, full=True)),
        ('kid10k', 'kid', MetricName('kid10k', 10_000)),
        ('pr20k3_full', 'pr', MetricName('pr20k3_full', 20_000, full=True, nearest=3)),
        ('pr1k5', 'pr', MetricName('pr1k5', 1_000, nearest=5)),
        ('prdc50k3_full', 'prdc', MetricName('prdc50k3_full', 50_000, full=True, nearest=3)),
        ('is10k', 'is', MetricName('is10k', 10_000)),
        ('ppl2_wend', 'ppl', MetricName('ppl2_wend')),
        ('eqt5k_int', 'eqt', MetricName('eqt5k_int', 5_000)),
        ('eqt500_frac', 'eqt', MetricName('eqt500_frac', 500)),
        ('eqr1k', 'eqr', MetricName('eqr1k', 1_000)),
        ('fid50k_train', 'fid', MetricName('fid50k_train', 50_000, full=True, images='training')),
        ('kid5k_held_out', 'kid', MetricName('kid5k_held_out', 5_000, full=True, images='held out')),
        ('fd_dinov2_5k_full', 'fd', MetricName('fd_dinov2_5k_full', 5_000, full=True)),
        ('memorization500', 'memorization', MetricName('memorization500', 500)),
        ('memorization2k_vgg', 'memorization', MetricName('memorization2k_vgg', 2_000)),
    ],
)
def test_parts_of_names(text, prefix, expected):
    entry, name = find_metric(text)
    assert name == expected and name.prefix == prefix
    assert entry.pattern.startswith(prefix)


@pytest.mark.parametrize(
    'text',
    [
        'fid',
        'fid0k',
        'fid05k',
        'fid50k_ful',
        'pr50k',
        'pr5003',
        'is50k_full',
        'ppl_wmid',
        'eqt50k',
        'eqr50k_int',
        'eqr50k_full',
        'fid50K',
        'fid٥k',
        '',
        'fid50k_full ',
        'kid20000k',
        'fid' + '9' * 5000,
    ],
)
def test_unknown_names(text):
    with pytest.raises(ValueError, match=r'(?s)^Unknown metric .*(Did you mean|Choose from)|more than 10,000,000'):
        find_metric(text)


def test_a_similar_name_is_suggested():
    with pytest.raises(ValueError, match=r"^Unknown metric 'fid50kfull'\. Did you mean fid50k_full\?$"):
        find_metric('fid50kfull')
    with pytest.raises(ValueError, match=r"^Unknown metric 'x'\. Choose from fid50k_full, .*\.$"):
        find_metric('x')


def test_lists():
    assert parse_names(' fid50k_full, KID50k_full,fid50k_full') == ('fid50k_full', 'kid50k_full')
    assert parse_names('None') == parse_names('') == parse_names(' ') == ()
    for text in (',', 'fid50k_full,', 'none,fid50k'):
        with pytest.raises(ValueError, match='Unknown metric'):
            parse_names(text)


@pytest.mark.parametrize(
    'text, reported',
    [
        ('fid5k_full', 'fd-digits5k_full'),
        ('kid10k', 'kd-digits10k'),
        ('pr1k3', 'pr-digits1k3'),
        ('is1k', 'is-digits1k'),
        ('ppl2_wend', 'ppl-digits2_wend'),
        ('prdc1k3', 'prdc-digits1k3'),
        ('fid5k_held_out', 'fd-digits5k_held_out'),
        ('cleankid5k', 'cleankd-digits5k'),
        ('fd_dinov2_5k_full', 'fd-digits_dinov2_5k_full'),
        ('cmmd1k', 'cmmd-digits1k'),
        ('memorization1k_vgg', 'memorization-digits1k_vgg'),
    ],
)
def test_stand_ins_have_names_of_their_own(text, reported):
    entry, name = find_metric(text)
    assert name.with_label('digits', entry.stand_in_prefix or name.prefix) == reported
    assert name.with_label(None, entry.stand_in_prefix or name.prefix) == text


def test_what_metrics_need():
    names = ('fid50k', 'eqt1k_int', 'ppl_wend', 'eqr1k', 'is50k', 'eqt50k_frac')
    assert needing_detector(names) == ['fid50k', 'ppl_wend', 'is50k']
    assert needing_transform(names) == ['eqt1k_int', 'eqr1k', 'eqt50k_frac']
    names = ('fid50k_full', 'kid5k', 'pr5k3_full', 'is5k', 'memorization5k', 'kid1k_held_out')
    assert using_held_out(names) == ['memorization5k', 'kid1k_held_out']
    assert requiring_held_out(names) == ['kid1k_held_out']
    assert with_held_out(names) == ('fid50k_full', 'fid50k_train', 'fid50k_held_out', *names[1:])
    assert with_held_out(('kid9_held_out', 'kid9_full')) == ('kid9_held_out', 'kid9_full', 'kid9_train')
    assert needing_detector(()) == needing_transform(()) == []
