"""ZegCLIP on Pascal Context, transductive: with pseudo labels of the unseen classes. Needs --init-from.

Not among the published configurations: settings as in Cascade-CLIP's, which builds on ZegCLIP.
"""

from configs.heads._zegclip import CONTEXT59
from configs.training import transductive

config = transductive(CONTEXT59)
