"""Methods as such: one more is one more file, and what does not fit is refused before weights are loaded."""

import pytest
import torch

import proxyclip
from proxyclip import methods
from proxyclip.errors import InputError
from proxyclip.loading import plan
from proxyclip.methods import find_method, method_names

TOY = '''"""Every patch gets the colour of nothing."""

from dataclasses import dataclass

from proxyclip.methods import _training_free

NEEDS_VFM = False


@dataclass(frozen=True)
class Options(_training_free.Options):
    """shift: added to all values."""

    shift: float = 1.0


class Toy(_training_free.TrainingFree):
    """CLIP's values, shifted."""

    method = "Toy"

    def embed(self, crops):
        values = self.clip.values(crops) + self.options.shift  # (B, D, h, w)
        return self.clip.project(values.flatten(2).mT).mT.unflatten(2, values.shape[-2:])  # (B, E, h, w)


Method = Toy
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    yield
    monkeypatch.delitem(__import__("sys").modules, "proxyclip.methods.toy", raising=False)


def test_one_more_method_is_one_more_file(toy):
    assert "toy" in method_names()
    model = proxyclip.load("mini", method="toy", shift=0.5)
    image = torch.randint(256, (40, 56, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    result = model.segment(image, ["sky", "sea"])
    assert result.labels.shape == (40, 56) and result.settings["shift"] == 0.5 and result.settings["method"] == "Toy"
    assert "toy" not in proxyclip.methods._training_free.__dict__
    with pytest.raises(InputError, match="method toy has no option 'gamma'"):
        plan("mini", method="toy", gamma=3.0)


@pytest.mark.parametrize("name", method_names())
def test_every_method_segments_and_loads_no_model_that_it_does_not_need(name):
    model = proxyclip.load("mini", method=name, crop=64)
    assert (model.vfm is not None) == find_method(name).NEEDS_VFM
    image = torch.rand(2, 70, 90, 3, generator=torch.Generator().manual_seed(0)).mul(255).byte().numpy()
    first, second = model.segment(list(image), ["sky", "sea; ocean", "car"])
    assert first.labels.shape == (70, 90)
    again = model.segment(image[1], ["sky", "sea; ocean", "car"])
    assert (again.labels == second.labels).all()  # not what was before it in a batch
    assert first.settings["method"] == find_method(name).Method.method


@pytest.mark.parametrize("name", method_names())
def test_no_method_takes_an_option_of_another(name):
    own = set(find_method(name).Options.__dataclass_fields__)
    for other in method_names():
        for option in set(find_method(other).Options.__dataclass_fields__) - own:
            with pytest.raises(InputError, match=f"method {name} has no option {option!r}"):
                plan("mini", method=name, **{option: 1.0})


@pytest.mark.parametrize("name", method_names())
@pytest.mark.parametrize("refine", [None, "pamr"])
def test_every_method_with_what_surrounds_it(name, refine):
    options = {"area": 0.2, "multiple": 0, "refine": refine}
    model = proxyclip.load("mini", method=name, **options)
    image = torch.randint(256, (48, 72, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8).numpy()
    labels = model.segment(image, ["sky", "sea", "car", "grass"]).labels
    shares = [(labels == index).sum() for index in (1, 2, 3)]
    assert all(share == 0 or share > 0.05 * sum(shares) for share in shares)
    assert model.settings()["area"] == 0.2


def test_whole_images_in_one_or_two_steps():
    image = torch.randint(256, (48, 72, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8).numpy()
    once, twice = (
        proxyclip.load("mini", method="clip", crop=0, short_side=80, two_steps=two_steps).segment(
            image, ["sky", "sea"], probabilities=["sky"]
        )
        for two_steps in (False, True)
    )
    difference = abs(once.probabilities["sky"] - twice.probabilities["sky"]).max()
    assert 1e-6 < difference < 0.2
    with pytest.raises(InputError, match="two_steps is about whole images: choose crop 0"):
        plan("mini", method="clip", two_steps=True)
