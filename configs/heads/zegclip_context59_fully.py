"""ZegCLIP on Pascal Context, fully supervised: labels of all 59 classes.

Not among the published configurations: settings as in Cascade-CLIP's, which builds on ZegCLIP.
"""

from configs.heads._zegclip import CONTEXT59
from configs.training import fully

config = fully(CONTEXT59)
