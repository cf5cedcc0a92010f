"""Every official layout is read, label values mean the right classes, and bad data gets one sentence."""

import os
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image
from tiny_benchmarks import LAYOUTS, build

import datasets
from configs.load import load_config
from datasets import label_map
from datasets.downloads import all_archives, archives, table
from datasets.label_map import VOID
from datasets.segmentation import SegmentationData, Split, data_root
from proxyclip.errors import InputError, NotFound
from proxyclip.runtime import main_guard

REPOSITORY = Path(__file__).resolve().parents[1]

# stored value -> class, for the lowest, the highest and the void values; then values that mean nothing
VALUES = {
    "cfg_voc20": ({0: VOID, 1: 0, 20: 19, 255: VOID}, [21, 254]),
    "cfg_voc21": ({0: 0, 20: 20, 255: VOID}, [21, 254]),
    "cfg_voc20b": ({0: 0, 20: 20, 255: VOID}, [21, 254]),
    "cfg_context59": ({0: VOID, 1: 0, 59: 58, 255: VOID}, [60]),
    "cfg_context60": ({0: 0, 59: 59}, [60, 255]),
    "cfg_context459": ({0: 0, 255: 255, 458: 458, 65535: VOID}, [459]),
    "cfg_coco_object": ({0: 0, 80: 80}, [81, 255]),
    "cfg_coco_stuff164k": ({0: 0, 170: 170, 255: VOID}, [171]),
    "cfg_city_scapes": ({0: 0, 18: 18, 255: VOID}, [19]),
    "cfg_ade20k": ({0: VOID, 1: 0, 150: 149, 255: VOID}, [151]),
    "cfg_ade847": ({0: 0, 255: 255, 846: 846, 65535: VOID}, [847]),
}


def stored_label(values, height=5, width=7):
    return np.resize(np.array(list(values)), (height, width))


@pytest.mark.parametrize("config", sorted(LAYOUTS))
def test_official_layout_is_read(config, tmp_path):
    values, _ = VALUES[config]
    stored = [stored_label(values), stored_label(values, 6, 4)]
    pairs = build(tmp_path, config, stored)
    folder = load_config(config).data.open(tmp_path)
    assert [tuple(item) for item in folder.items] == pairs
    assert [*folder.items[1:]] == [*folder.items][1:] and tuple(folder.items[-1]) == pairs[-1]
    assert len(folder.items[:1]) == 1 and not folder.items[len(pairs) :]
    for sample, label, (stem, image, _) in zip(folder, stored, pairs, strict=True):
        assert sample.stem == stem
        assert sample.label.dtype == np.int32 and sample.label.shape == label.shape
        assert np.array_equal(sample.label, np.vectorize(values.get)(label))
        assert sample.image.dtype == np.uint8
        assert np.array_equal(sample.image, np.asarray(Image.open(image)))
        assert sample.image.flags.writeable and sample.label.flags.writeable  # torch warns of arrays that are not


@pytest.mark.parametrize("config, value", [(config, value) for config, (_, bad) in VALUES.items() for value in bad])
def test_value_that_means_nothing_is_an_error(config, value, tmp_path):
    stored = stored_label([1])
    stored[2, 3] = value
    (_, _, path), *_ = build(tmp_path, config, [stored])
    folder = load_config(config).data.open(tmp_path)
    with pytest.raises(InputError, match=rf"{path.name} contains the value {value},"):
        folder[0]


@pytest.fixture
def voc(tmp_path):
    """The data, the root, and the two pairs of a tiny VOC."""
    return load_config("voc20").data, tmp_path, build(tmp_path, "cfg_voc20", [stored_label([1, 2])] * 2)


SPLIT = "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
TWO = ["2007_000033", "2007_000042"]


@pytest.mark.parametrize(
    "listing",
    [
        b"2007_000033\n2007_000042",
        b"2007_000033\r\n2007_000042\r\n",
        b"  2007_000033\t\n\n2007_000042 \n\n",
        b"\xef\xbb\xbf2007_000033\n2007_000042\n",
    ],
    ids=["no last newline", "CR LF", "blanks", "byte order mark"],
)
def test_split_files_as_people_save_them(voc, listing):
    data, root, _ = voc
    (root / SPLIT).write_bytes(listing)
    assert [item.stem for item in data.open(root).items] == TWO


@pytest.mark.parametrize(
    "listing, sentence",
    [
        (b"", "lists no image"),
        (b" \n\n", "lists no image"),
        (b"a\nb\na\n", "lists a twice"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b"a\n../../secret\n", "lists '../../secret', which is not a name below the dataset's folder"),
        (b"/etc/passwd\n", "lists '/etc/passwd', which is not a name below"),
        (b"..\\secret\n", "which is not a name below"),
        (b"a\0b\n", "which is not a name below"),
    ],
)
def test_bad_split_file(voc, listing, sentence):
    data, root, _ = voc
    (root / SPLIT).write_bytes(listing)
    with pytest.raises(InputError, match=sentence):
        data.open(root)


def test_missing_split_file_says_how_to_get_it(voc):
    data, root, _ = voc
    with pytest.raises(NotFound, match=r"trainaug\.txt does not exist; .*benchmark\.tgz.* datasets\.prepare voc_aug"):
        data.open(root, "train")


def test_order_of_the_listing_is_kept(voc):
    data, root, _ = voc
    (root / SPLIT).write_text("2007_000042\n2007_000033\n")
    assert [item.stem for item in data.open(root).items] == TWO[::-1]


@pytest.mark.parametrize("config", ["cfg_voc20", "cfg_city_scapes"], ids=["listed", "found"])
@pytest.mark.parametrize("lost", [1, 2], ids=["image", "label"])
def test_incomplete_pair_is_named(config, lost, tmp_path):
    pairs = build(tmp_path, config, [stored_label([1])] * 2)
    lost = pairs[1][lost]
    lost.unlink()
    data = load_config(config).data
    with pytest.raises(NotFound, match=lost.name):
        data.open(tmp_path)
    folder = data.open(tmp_path, allow_missing=True)
    assert len(folder) == 2 and folder.missing() == [lost]
    folder[0]
    with pytest.raises(NotFound, match=lost.name):
        folder[1]


def test_files_that_are_no_pairs_are_left_out(tmp_path):
    pairs = build(tmp_path, "cfg_city_scapes", [stored_label([1])] * 2)
    for name in (".a_gtFine_labelTrainIds.png", ".b.png.part", "c_gtFine_labelIds.png", "d_gtFine_color.png"):
        (pairs[0][2].parent / name).write_bytes(b"")
    assert len(load_config("city_scapes").data.open(tmp_path)) == 2


def test_linked_folders_are_followed(tmp_path):
    build(tmp_path / "elsewhere", "cfg_city_scapes", [stored_label([1])] * 2)
    for part in ("leftImg8bit", "gtFine"):
        (tmp_path / "cityscapes" / part / "val").mkdir(parents=True)
        for city in (tmp_path / "elsewhere" / "cityscapes" / part / "val").iterdir():
            (tmp_path / "cityscapes" / part / "val" / city.name).symlink_to(city)
    assert len(load_config("city_scapes").data.open(tmp_path)) == 2


def test_size_mismatch(voc):
    data, root, pairs = voc
    Image.new("RGB", (8, 5)).save(pairs[0][1])
    with pytest.raises(InputError, match=r"2007_000033\.jpg .*2007_000033\.png have different sizes, 8x5 and 7x5"):
        data.open(root)[0]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "1", "F"])
def test_label_that_is_no_index_image(voc, mode):
    data, root, pairs = voc
    path = pairs[0][2]
    Image.new(mode, (7, 5)).save(path, "TIFF" if mode == "F" else "PNG")
    with pytest.raises(InputError, match=rf"2007_000033\.png has mode {mode}, not one class index"):
        data.open(root)[0]


def test_negative_value(voc):
    data, root, pairs = voc
    Image.fromarray(np.full((5, 7), -2, np.int32)).save(pairs[0][2], "TIFF")
    with pytest.raises(InputError, match="contains the value -2,"):
        data.open(root)[0]


@pytest.mark.parametrize("which", [1, 2], ids=["jpeg", "png"])
@pytest.mark.parametrize("keep", [0.0, 0.6], ids=["empty", "truncated"])
def test_broken_file(voc, which, keep):
    data, root, pairs = voc
    path = pairs[1][which]
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(InputError, match=rf"cannot read (image|label) .*{path.name}: .* or corrupted file"):
        data.open(root)[1]


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA"])
def test_images_of_other_modes_become_rgb(voc, mode):
    data, root, pairs = voc
    Image.new(mode, (7, 5)).save(pairs[0][1], "TIFF")
    assert data.open(root)[0].image.shape == (5, 7, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_photographs_are_upright_and_labels_are_never_rotated(tmp_path, suffix):
    data = SegmentationData("d", "", ("a", "b"), {"val": Split(f"images/{{}}.{suffix}", "labels/{}.png")})
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter clockwise
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    stored = np.zeros((4, 8, 3), np.uint8)
    stored[:, :4] = 255
    Image.fromarray(stored).save(tmp_path / f"images/x.{suffix}", exif=exif)
    label = np.zeros((8, 4), np.uint8)
    label[:2] = 1
    Image.fromarray(label).save(tmp_path / "labels/x.png", exif=exif)
    (sample,) = data.open(tmp_path)
    np.testing.assert_array_equal(sample.label, label)
    assert sample.image.shape == (8, 4, 3) and sample.image[0].min() > 250 and sample.image[-1].max() < 5


@pytest.mark.parametrize("which", [1, 2], ids=["image", "label"])
def test_postscript_in_place_of_an_image_is_not_run(voc, which, monkeypatch):
    data, root, pairs = voc
    pairs[0][which].write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 7 5\nshowpage\n%%EOF\n")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript would have run"))
    with pytest.raises(InputError, match=f"cannot read .*{pairs[0][which].name}: unsupported format"):
        data.open(root)[0]


@pytest.mark.parametrize("which", [1, 2, None], ids=["image", "label", "listing"])
def test_a_pipe_is_refused_at_once(voc, which):
    data, root, pairs = voc
    path = pairs[0][which] if which else root / SPLIT
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match=f"{path.name} is not a regular file"):
        data.open(root)[0]


def test_where_the_data_root_comes_from(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROXYCLIP_DATA", raising=False)
    assert data_root() == tmp_path / "data"
    monkeypatch.setenv("PROXYCLIP_DATA", str(tmp_path / "variable"))
    assert data_root() == tmp_path / "variable"
    assert data_root("flag") == tmp_path / "flag"


def test_absent_root_says_where_and_how(tmp_path):
    with pytest.raises(NotFound) as caught:
        load_config("city_scapes").data.open(tmp_path / "nowhere")
    for part in (str(tmp_path / "nowhere" / "cityscapes"), "gtFine_trainvaltest.zip", "--data-root", "PROXYCLIP_DATA"):
        assert part in str(caught.value)


def test_wrong_root_is_put_right(voc):
    data, root, _ = voc
    for wrong in (root / "VOCdevkit", root / "VOCdevkit" / "VOC2012"):
        with pytest.raises(NotFound, match=rf"did you mean --data-root {root}\?"):
            data.open(wrong)


def test_empty_folders_name_the_pattern(tmp_path):
    (tmp_path / "cityscapes").mkdir()
    with pytest.raises(NotFound, match=r"no file matches .*leftImg8bit/val/\*_leftImg8bit\.png"):
        load_config("city_scapes").data.open(tmp_path)


def test_unknown_split_suggests(voc):
    with pytest.raises(InputError, match="voc20 has no split 'vall'; did you mean val"):
        voc[0].open(voc[1], "vall")


def test_worker_processes_can_have_it(voc):
    data, root, _ = voc
    folder = pickle.loads(pickle.dumps(data.open(root)))
    assert np.array_equal(folder[1].label, data.open(root)[1].label)


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ({"name": None}, "name must be a non-empty string, not None"),
        ({"name": ""}, "name must be a non-empty string"),
        ({"name": "a/b"}, "name must be a name without / or"),
        ({"name": ".."}, "name must be a name without / or"),
        ({"name": "a\nb"}, "name must be a non-empty string"),
        ({"folder": None}, "folder must be a string"),
        ({"classes": ()}, "at least one"),
        ({"classes": ("sky")}, r"a single string, 'sky': a tuple of one name needs a comma, \('sky',\)"),
        ({"classes": None}, "classes must be a tuple of names, not None"),
        ({"classes": {"a": 1}}, "classes must be a tuple of names"),
        ({"classes": ("a", 7)}, "a name in d: classes must be a non-empty string, not 7"),
        ({"classes": ("a", "a")}, "all different; 'a' is given twice"),
        ({"classes": ("a", " ")}, "a name in d: classes must be a non-empty string"),
        ({"splits": None}, "splits must be a dict"),
        ({"splits": {"val": "images/{}.jpg"}}, "splits must be a dict"),
        ({"void": "255"}, "void must be a stored value such as 255, or None, not '255'"),
        ({"void": True}, "void must be a stored value"),
        ({"void": -1}, "void must be a stored value"),
        ({"zero_is_void": 1}, "zero_is_void must be True or False, not 1"),
        ({"palette": ((0, 0, 0),)}, "1 colours for 2 classes"),
        ({"palette": ((0, 0, 0), (0, 0, 256))}, r"palette must be a tuple of \(r, g, b\), each from 0 to 255"),
        ({"palette": ((0, 0, 0), (0, 0, 0.5))}, r"palette must be a tuple of \(r, g, b\)"),
        ({"palette": ("red", "blue")}, r"palette must be a tuple of \(r, g, b\)"),
        ({"palette": 7}, r"palette must be a tuple of \(r, g, b\)"),
        ({"unseen": ("a",)}, "unseen must be a dict"),
        ({"unseen": {"mine": ("c",)}}, "which are not classes"),
        ({"unseen": {"mine": "a"}}, "a single string, 'a'"),
        ({"source": 7}, "source must be a string"),
    ],
)
def test_data_that_contradicts_itself(wrong, sentence):
    data = SegmentationData(name="d", folder="d", classes=("a", "b"), splits={})
    with pytest.raises(InputError, match=sentence) as caught:
        replace(data, **wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ({"images": None}, "Split.images must be a non-empty string"),
        ({"listing": None}, "Split.listing must be a path"),
        ({"count": 1449}, r"Split.count must be a tuple of whole numbers such as \(1449,\), not 1449"),
        ({"count": ("1449",)}, "Split.count must be a tuple"),
        ({"count": (True,)}, "Split.count must be a tuple"),
        ({"count": (0,)}, "Split.count must be a tuple"),
        ({"prepare": "context"}, "a single string, 'context'"),
    ],
)
def test_split_that_cannot_be(wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        replace(Split(images="{}.jpg", labels="{}.png"), **wrong)


def test_a_list_of_classes_is_a_tuple_of_them():
    assert SegmentationData("d", "d", ["a", "b"], {}) == SegmentationData("d", "d", ("a", "b"), {})


def test_pattern_without_a_place_for_the_stem():
    with pytest.raises(InputError, match="must contain {} exactly once"):
        Split(images="images/*.jpg", labels="labels/{}.png")


def test_scripts_end_with_code_2(capsys):
    @main_guard
    def main():
        raise NotFound("what is wrong")

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: what is wrong\n"


def test_palettes():
    assert label_map.pascal(4) == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert label_map.pascal(1, first=20) == ((0, 64, 128),)
    assert len(label_map.CITYSCAPES) == 19 == len(set(label_map.CITYSCAPES))
    assert (len(label_map.ADE20K), len(label_map.COCO_STUFF)) == (150, 171)
    assert label_map.CITYSCAPES[0] == (128, 64, 128) and label_map.CITYSCAPES[-1] == (119, 11, 32)
    assert label_map.ADE20K[0] == (120, 120, 120) and label_map.ADE20K[-1] == (92, 0, 255)
    assert label_map.COCO_STUFF[0] == (240, 128, 128) and label_map.COCO_STUFF[-1] == (64, 64, 0)


@pytest.mark.parametrize("config", ["ade847", "context459"])
def test_palettes_of_our_own_are_distinct_and_stable(config):
    colours = load_config(config).data.colours
    assert len(set(colours)) == len(colours) and (0, 0, 0) not in colours
    assert colours == label_map.pascal(847, first=1)[: len(colours)]


def test_datasets_is_ours():
    assert Path(datasets.__file__).is_relative_to(REPOSITORY)


def test_downloads_are_known_for_every_split_of_every_public_benchmark():
    used = set()
    for config in map(load_config, LAYOUTS):
        for split in config.data.splits:
            found = archives(config.data.name, split)
            used |= set(found)
            assert found and not config.data.source
            assert found[0].file in config.data.how_to_get(split)
    assert used == set(all_archives())


def test_every_archive_can_be_fetched_and_unpacked():
    for archive in all_archives():
        assert archive.access in ("free", "registration", "request form")
        assert archive.urls and all(re.fullmatch(r"https?://\S+", url) for url in archive.urls)
        assert re.fullmatch(r"[0-9a-f]{32}|", archive.md5) and ".." not in archive.unpack_in


def test_the_table_of_downloads_is_the_data_file():
    assert table() in (REPOSITORY / "docs" / "datasets.md").read_text(encoding="utf-8")
