"""Python runs this when it starts, where the folder is on PYTHONPATH: the rehearsal device for whole processes."""

import os

if 'REHEARSAL_DEVICES' in os.environ:
    from tests import rehearsal

    rehearsal.install(
        int(os.environ['REHEARSAL_DEVICES']),
        int(os.environ.get('REHEARSAL_MEMORY_MIB', rehearsal.MEMORY_MIB)),
        os.environ.get('REHEARSAL_SHARED_RNG') == '1',
    )
