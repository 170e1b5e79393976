from . import bmr as bmr
from . import bmr_page as bmr_page
from . import both as both
