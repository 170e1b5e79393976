from . import page as page
from . import steps as steps
from . import suite as suite
