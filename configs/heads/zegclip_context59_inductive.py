"""ZegCLIP on Pascal Context, inductive: labels of 49 of 59 classes.

Not among the published configurations: settings as in Cascade-CLIP's, which builds on ZegCLIP.
"""

from configs.heads._zegclip import CONTEXT59

config = CONTEXT59
