"""Open-vocabulary semantic segmentation: an image and a list of class names in, a label for every pixel out.

>>> import proxyclip
>>> model = proxyclip.load("vitb16-dino")
>>> result = model.segment("street.jpg", ["road", "car; truck", "sky"])
>>> result.save("out/")
"""

import importlib

__version__ = "0.1.0"

# Imported when first used, so that `import proxyclip` does not wait for torch.
_HOMES = {
    "load": "proxyclip.loading",
    "presets": "proxyclip.loading",
    "Segmentor": "proxyclip.segmentor",
    "Segmentation": "proxyclip.segmentation",
    "InputError": "proxyclip.errors",
    "NotFound": "proxyclip.errors",
}
__all__ = [*_HOMES]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'proxyclip' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__():
    return [*globals(), *_HOMES]
