from . import networks as networks
from . import page as page
