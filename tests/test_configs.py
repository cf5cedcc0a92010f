"""The configurations say what was published, and a wrong one is refused in one sentence."""

from dataclasses import replace

import pytest

from configs.base import WORDS, EvalConfig, read_words
from configs.load import load_config, names
from configs.overrides import read_overrides
from datasets.segmentation import SegmentationData, Split
from proxyclip.errors import InputError, NotFound
from proxyclip.methods.proxyclip import Options

# classes, queries, short side, crop, stride, threshold, background, validation images
PUBLISHED = {
    "cfg_voc21": (21, 46, 336, 336, 112, 0.2, "vocabulary", (1449,)),
    "cfg_voc20b": (21, 59, 336, 336, 112, None, "vocabulary", (1449,)),
    "cfg_voc20": (20, 20, 336, 336, 112, None, "none", (1449,)),
    "cfg_context60": (60, 60, 336, 336, 112, 0.15, "threshold", (5105, 5104)),
    "cfg_context59": (59, 59, 336, 336, 112, None, "none", (5105, 5104)),
    "cfg_coco_object": (81, 97, 336, 336, 112, 0.25, "vocabulary", (5000,)),
    "cfg_coco_stuff164k": (171, 171, 336, 336, 112, None, "none", (5000,)),
    "cfg_city_scapes": (19, 19, 448, 224, 112, None, "none", (500,)),
    "cfg_ade20k": (150, 150, 448, 336, 112, None, "none", (2000,)),
    "cfg_ade847": (847, 847, 448, 336, 112, None, "none", (2000,)),
    "cfg_context459": (459, 459, 448, 336, 112, None, "none", (5105, 5104)),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_settings(name):
    config = load_config(name)
    queries = [word for line in config.queries for word in line.split("; ")]
    options = replace(Options(), **config.model_options)  # of a preset without values of its own
    assert PUBLISHED[name] == (
        len(config.data.classes),
        len(queries),
        options.short_side,
        options.crop,
        options.stride,
        config.threshold,
        config.background,
        config.data.splits["val"].count,
    )
    assert len(config.queries) == len(config.data.colours) == len(config.data.classes)
    assert all(word == word.strip() for word in queries)


def test_all_are_listed():
    assert set(PUBLISHED) == set(names()) - {"cfg_scenes"}
    assert len({load_config(name).data.name for name in PUBLISHED}) == 11


def test_class_files_have_the_right_length_and_ends():
    ends = {
        "voc20": (20, "aeroplane", "tvmonitor"),
        "context59": (59, "aeroplane", "wood"),
        "coco_stuff164k": (171, "person", "wood"),
        "cityscapes": (19, "road", "bicycle"),
        "ade20k": (150, "wall", "flag"),
        "ade847": (847, "wall", "adding machine, totalizer, totaliser"),
        "context459": (459, "accordion", "wool"),
    }
    assert {path.stem for path in WORDS.glob("*.txt")} >= set(ends)
    for name, (count, first, last) in ends.items():
        words = read_words(name)
        assert (len(words), words[0], words[-1]) == (count, first, last), name


def test_words_of_the_published_runs():
    def asked(name, class_name):
        config = load_config(name)
        return config.queries[config.data.classes.index(class_name)]

    assert asked("voc20", "boat") == asked("voc21", "boat") == "ship"
    assert asked("voc20", "diningtable") == "table"
    assert asked("city_scapes", "traffic light") == "trafficlight"
    assert asked("coco_stuff164k", "hair drier") == "hairdrier"
    assert asked("ade20k", "crt screen") == "crtscreen"
    assert asked("context60", "background") == "background"
    assert asked("voc21", "background").split("; ")[::25] == ["sky", "fence"]
    assert asked("coco_object", "background").split("; ")[::16] == ["sky", "rail"]


def test_the_background_of_voc20b_is_made_of_other_names():
    """As published: all names of Pascal Context but those of VOC, and but "table", which VOC has by another name."""
    config, voc, context = load_config("voc20b"), read_words("voc20"), read_words("context59")
    queries, owners = config.vocabulary.name_queries
    assert set(queries[:39]) == {*context} - {*voc} - {"table"} and queries[39:] == voc
    assert owners == (0,) * 39 + tuple(range(1, 21))
    assert config.data == replace(load_config("voc21").data, name="voc20b") and config.prompts.keys() == {"background"}


@pytest.mark.filterwarnings("ignore:classes 0 .* share the name 'bed'")  # of COCO-Object
def test_only_a_background_that_is_a_list_is_asked_for_by_other_words_than_its_name():
    for name in names():
        config = load_config(name)
        queries, owners = config.vocabulary.name_queries
        others = tuple(query for query, owner in zip(queries, owners, strict=True) if owner)
        assert others == config.data.classes[1:]
        own = config.queries[0].split("; ") if config.background == "vocabulary" else [config.data.classes[0]]
        assert list(queries[: len(own)]) == own


def test_classes_of_datasets_that_share_them():
    voc21, stuff, things = (load_config(name).data.classes for name in ("voc21", "coco_stuff164k", "coco_object"))
    assert voc21 == ("background", *load_config("voc20").data.classes)
    assert things == ("background", *stuff[:80]) and things[-1] == "toothbrush" and stuff[80] == "banner"


def test_zero_shot_splits():
    assert load_config("voc20").data.unseen["zegclip"] == ("pottedplant", "sheep", "sofa", "train", "tvmonitor")
    assert len(load_config("coco_stuff164k").data.unseen["zegclip"]) == 15
    unseen = load_config("context59").data.unseen
    assert {name: len(set(classes)) for name, classes in unseen.items()} == {"otseg": 10, "cascade-clip": 10}
    assert set(unseen["otseg"]) & set(unseen["cascade-clip"]) == {"aeroplane", "boat", "cow", "keyboard"}


DATA = SegmentationData(name="d", folder="d", classes=("background", "cat"), splits={"val": Split("{}.jpg", "{}.png")})


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({"short_side": -1}, "short_side must be a whole number of pixels, at least 0, not -1"),
        ({"stride": 0}, "stride must be a whole number of pixels, at least 1, not 0"),
        ({"crop": 33.5}, "crop must be a whole number"),
        ({"stride": True}, "stride must be a whole number"),
        ({"crop": 336, "stride": 337}, "windows would leave gaps"),
        ({"background": "vocabularly"}, "background must be one of"),
        ({"background": "threshold"}, "needs a threshold"),
        ({"background": "vocabulary"}, "needs prompts for the class background"),
        ({"threshold": 0.5}, "conflicts with background=none"),
        ({"threshold": 20.0, "background": "threshold"}, "between 0 and 1"),
        ({"threshold": "low", "background": "threshold"}, "threshold must be a finite number or none, not 'low'"),
        ({"prompts": {"cats": "tiger"}}, "d has no class 'cats'; did you mean cat"),
        ({"split": "test"}, "d has no split 'test'; Known: val"),
    ],
)
def test_config_that_contradicts_itself(fields, sentence):
    with pytest.raises(InputError, match=sentence):
        EvalConfig(data=DATA, **fields)


def test_background_needs_a_background_class():
    with pytest.raises(InputError, match="class 0 of voc20 is aeroplane"):
        replace(load_config("voc20"), background="threshold", threshold=0.2)


def override(config, settings: list[str]):
    return read_overrides(config, settings, "proxyclip").config


def test_background_modes_change_the_queries():
    voc21 = load_config("voc21")
    assert voc21.queries[0].startswith("sky; wall")
    assert override(voc21, ["background=threshold"]).queries[:2] == ("background", "aeroplane")
    plain = override(voc21, ["background=none", "threshold=none"])
    assert plain.queries[0] == "background" and plain.threshold is None
    assert plain.queries[1:] == voc21.queries[1:]


def test_protocol_tells_runs_apart(tmp_path):
    voc21 = load_config("voc21")
    (tmp_path / "words.txt").write_text("\n".join(f"thing {i}" for i in range(21)))
    changes = {
        "threshold": "0.3",
        "split": "train",
        "words": tmp_path / "words.txt",
    }
    before = voc21.protocol()
    assert before == load_config("voc21").protocol()
    for field, value in changes.items():
        after = override(voc21, [f"{field}={value}"]).protocol()
        changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        assert changed == {"queries" if field == "words" else field}
    assert override(voc21, ["background=threshold"]).protocol()["background"] == "threshold"
    assert (voc21.protocol()["void"], load_config("voc20").protocol()["void"]) == ("255", "0 and 255")


@pytest.mark.parametrize("name", ["voc20", "cfg_voc20", "cfg_voc20.py", "configs/cfg_voc20.py"])
def test_names_and_paths(name, monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)
    assert load_config(name).data.name == "voc20"


def test_unknown_name_suggests():
    with pytest.raises(NotFound, match="unknown configuration 'cfg_vok20'; did you mean cfg_voc20 or"):
        load_config("cfg_vok20.py")
    with pytest.raises(NotFound, match="Known: cfg_ade20k, cfg_ade847, .*cfg_voc21"):
        load_config("xyz")


GOOD = """
from dataclasses import replace
from configs.base import EvalConfig
from configs.cfg_voc20 import VOC20
from datasets.segmentation import SegmentationData, Split
"""


@pytest.mark.parametrize(
    "text, sentence",
    [
        (
            "config = EvalConfig(data=VOC20, shortside=336)",
            "EvalConfig has no field 'shortside'; did you mean short_si",
        ),
        ("VOC = replace(VOC20, palete=())\nconfig = 1", "SegmentationData has no field 'palete'; did you mean palette"),
        ("config = Split(images='{}', label='{}')", "Split has no field 'label'; did you mean labels"),
        ("config = EvalConfig()", "missing 1 required positional argument: 'data'"),
        ("config = EvalConfig(data=VOC20, crop=224, stride=999)", "stride 999 is larger than crop 224"),
        ("config = EvalConfig(data=VOC20, short_side='448')", "short_side must be a whole number or none, not '448'"),
        (
            "config = EvalConfig(data=VOC20, logit_scale=float('nan'))",
            "logit_scale must be a finite number or none, not nan",
        ),
        ("config = EvalConfig(data=SegmentationData)", "data must be a dataset, such as SegmentationData"),
        ("config = EvalConfig", "`config` must be .*, not the class EvalConfig"),
        ("config = 1", "`config` must be .*, not 1$"),
        ("config = EvalConfig(data=VOC22)", "name 'VOC22' is not defined"),
        ("config = EvalConfig(data=VOC20", "was never closed"),
        ("configuration = 1", "does not set `config`"),
    ],
)
def test_bad_config_file_gets_one_sentence(tmp_path, text, sentence):
    path = tmp_path / "cfg_mine.py"
    path.write_text(GOOD + text + "\n")
    with pytest.raises(InputError, match=sentence) as caught:
        load_config(path)
    assert str(caught.value).startswith(str(path)) or "does not set" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings():
    config = override(load_config("voc21"), ["short_side=448", "threshold=none", "split=train"])
    assert (config.short_side, config.threshold, config.split, config.crop) == (448, None, "train", None)
    assert config.model_options == {"short_side": 448}
    assert override(config, ["crop=0", "logit_scale=50"]).model_options == {
        "short_side": 448, "crop": 0, "logit_scale": 50.0,
    }  # fmt: skip


def test_settings_of_the_model():
    given = ["beta=1.4", "clip=ViT-L-14:openai", "vfm_layer=3", "templates=a {}.", "crop=224"]
    overrides = read_overrides(load_config("voc20"), given, "proxyclip")
    assert overrides.model == {"beta": 1.4, "clip": "ViT-L-14:openai", "vfm_layer": 3, "templates": ("a {}.",)}
    assert overrides.config.crop == 224 and overrides.standard.crop is None


@pytest.mark.parametrize(
    "setting, sentence",
    [
        ("shortside=448", "no field 'shortside' in the configuration or proxyclip; did you mean short_side"),
        ("short_side", "write FIELD=VALUE"),
        ("data=1", "no field 'data' in the configuration or proxyclip"),
        ("beta=high", "beta must be a finite number, not 'high'"),
        ("gamma=inf", "gamma must be a finite number, not 'inf'"),
        ("vfm_layer=1.5", "vfm_layer must be a whole number or none, not '1.5'"),
        ("crop=abc", "crop must be a whole number or none, not 'abc'"),
        ("words=nowhere.txt", "class file nowhere.txt does not exist"),
    ],
)
def test_bad_setting(setting, sentence):
    with pytest.raises((InputError, NotFound), match=sentence):
        override(load_config("voc20"), [setting])


def test_class_file_replaces_the_words(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes("\r\n".join(["sky;  wall", *(f"thing {i}" for i in range(59))]).encode())
    config = override(load_config("context60"), [f"words={path}"])
    assert config.queries[:2] == ("sky; wall", "thing 0") and config.data.classes[1] == "aeroplane"
    with pytest.raises(InputError, match="has 60 lines; expected 20"):
        override(load_config("voc20"), [f"words={path}"])


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("cat\n\ndog\n", "line 2: empty name"),
        ("cat\ndog; \n", "line 2: empty name"),
        ("cat\ndog\n cat \n", "line 3: 'cat' repeats line 1"),
        ("", "has 0 lines"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
    ],
)
def test_bad_class_file(tmp_path, text, sentence):
    path = tmp_path / "words.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=sentence):
        read_words(path)


def test_a_training_configuration_stands_for_its_benchmark():
    assert load_config(WORDS.parent / "heads" / "zegclip_voc20_inductive.py") == load_config("cfg_voc20")
