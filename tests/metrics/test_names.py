"""Names of metrics: what they say, which ones there are, what they are called with stand-ins."""

import pytest

from metrics.names import PUBLISHED, Metric, parse, parse_list


def test_the_published_ones():
    assert set(PUBLISHED) == {
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
    }
    assert len(PUBLISHED) == 12
    for name in PUBLISHED:
        assert parse(name).name == name


@pytest.mark.parametrize(
    'name, expected',
    [
        ('fid50k_full', Metric('fid50k_full', 'fid', 50_000, full=True)),
        ('fid5k', Metric('fid5k', 'fid', 5_000)),
        ('fid500_full', Metric('fid500_full', 'fid', 500, full=True)),
        ('kid10k', Metric('kid10k', 'kid', 10_000)),
        ('pr20k3_full', Metric('pr20k3_full', 'pr', 20_000, full=True, nearest=3)),
        ('pr1k5', Metric('pr1k5', 'pr', 1_000, nearest=5)),
        ('prdc50k3_full', Metric('prdc50k3_full', 'prdc', 50_000, full=True, nearest=3)),
        ('is10k', Metric('is10k', 'is', 10_000)),
        ('ppl2_wend', Metric('ppl2_wend', 'ppl')),
    ],
)
def test_families(name, expected):
    assert parse(name) == expected


@pytest.mark.parametrize(
    'name',
    [
        'fid',
        'fid0k',
        'fid05k',
        'fid50k_ful',
        'pr50k',
        'pr5003',
        'is50k_full',
        'ppl_wmid',
        'fid50K',
        'fid٥k',
        '',
        'fid50k_full ',
        'kid20000k',
        'fid' + '9' * 5000,
    ],
)
def test_no_metrics(name):
    with pytest.raises(ValueError, match=r'(?s)is no metric|more than 10,000,000'):
        parse(name)


def test_a_close_name_is_suggested():
    with pytest.raises(ValueError, match='did you mean fid50k_full'):
        parse('fid50kfull')


def test_lists():
    assert parse_list(' fid50k_full, KID50k_full,fid50k_full') == ('fid50k_full', 'kid50k_full')
    assert parse_list('None') == ()
    for text in ('', 'fid50k_full,', 'none,fid50k'):
        with pytest.raises(ValueError, match='is no metric'):
            parse_list(text)


@pytest.mark.parametrize(
    'name, reported',
    [
        ('fid5k_full', 'fd-digits5k_full'),
        ('kid10k', 'kd-digits10k'),
        ('pr1k3', 'pr-digits1k3'),
        ('is1k', 'is-digits1k'),
        ('ppl2_wend', 'ppl-digits2_wend'),
        ('prdc1k3', 'prdc-digits1k3'),
    ],
)
def test_stand_ins_have_names_of_their_own(name, reported):
    assert parse(name).reported_name('digits') == reported
    assert parse(name).reported_name(None) == name
