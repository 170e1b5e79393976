from . import fine_tuning as fine_tuning
from . import page as page
from . import pretraining as pretraining
from . import runs as runs
