"""Published scores: where they stand, what they are marked with, and what the shipped rows say."""

import pytest
from runs import CHANGED, B, L, rendered, run, table

from configs import load as configs
from configs.published import PUBLISHED
from proxyclip.reports.frames import published_score
from proxyclip.reports.html_report import format_run

CATSEG = {"model": "CAT-Seg", "clip": "ViT-L-14-336:openai", "vfm": None}


def test_scores_are_found_by_models_and_dataset():
    assert published_score(run("coco_object"), PUBLISHED).score == 37.5
    assert published_score(run("coco_object", clip=L), PUBLISHED).score == 39.2
    assert published_score(run("coco_object", clip="mini"), PUBLISHED) is None
    assert published_score(run("scenes"), PUBLISHED) is None
    assert published_score(run("coco_object", changed=CHANGED), PUBLISHED) is None
    assert published_score(run("coco_object"), {}) is None


def test_other_protocols_are_marked_beside_the_number(tmp_path):
    book = rendered(tmp_path, run(), run(model="MaskCLIP", vfm=None), run(**CATSEG))
    rows = table(book["benchmark"])
    assert rows["ProxyCLIP", B, "dino-vitb8"]["voc20"][1].number_format == "0.0"
    assert rows["MaskCLIP", B, "–"]["voc20"][1].value is None  # each under the protocol that it belongs to
    printed = rows["MaskCLIP, as printed", B, "–"]["voc20"]
    assert (printed[0].value, printed[1].value, printed[1].number_format) == (None, 74.9, '0.0" §"')
    assert rows["CAT-Seg ‡", CATSEG["clip"], "–"]["voc20"][1].number_format == '0.0" §¶"'
    legend = [cell.value for cell in book["benchmark"]["A"] if cell.value]
    assert any(text.startswith("§: another protocol") for text in legend)
    assert any(text.startswith("¶: ") and "mIoU_present" in text for text in legend)
    assert "‡: trained, on COCO-Stuff, ImageNet images, without labels." in legend
    assert [row[7].number_format for row in book["runs"].iter_rows(min_row=2)] == ["0.0", "0.0", '0.0" §¶"']


TRAINING = {"dataset": "coco_stuff164k", "setting": "fully"}
STUFF = TRAINING | {"weights": "1a2b3c"}


def test_trained_weights_stand_beside_the_paper_s_if_their_training_is_the_same(tmp_path):
    same, again = (run("voc20b", trained=STUFF | {"weights": digest}, **CATSEG) for digest in ("1a2b3c", "4d5e6f"))
    others = [
        run("voc20b", trained=STUFF | more, **CATSEG) for more in ({"setting": "inductive"}, {"dataset": "voc20"})
    ]
    limited = same | {"changed": {"limit": 5}}
    assert published_score(same, PUBLISHED)[:3] == (82.5, "mIoU_present", "§¶")
    assert not any(published_score(line, PUBLISHED) for line in (*others, limited))
    rows = table(rendered(tmp_path, same, again, *others, limited, run())["benchmark"])
    name = "CAT-Seg, coco_stuff164k fully {}"
    for names in (f"{name} ‡".format("1a2b3c"), f"{name} ‡".format("4d5e6f")):
        ours, paper = rows[names, CATSEG["clip"], "–"]["voc20b"]
        assert (ours.value, paper.value, paper.number_format) == (50, 82.5, '0.0" §¶"')
        assert rows[names, CATSEG["clip"], "–"]["voc20"][1].value == 97.0  # not run yet
    assert ("CAT-Seg ‡", CATSEG["clip"], "–") not in rows and ("CAT-Seg ‡", B, "–") in rows
    for names in ("CAT-Seg, coco_stuff164k inductive 1a2b3c", "CAT-Seg, voc20 fully 1a2b3c",
                  f"{name.format('1a2b3c')} (first 5 images)"):  # fmt: skip
        ours, paper = rows[names, CATSEG["clip"], "–"]["voc20b"]
        assert (ours.value, paper.value) == (50, None)
    assert rows["ProxyCLIP", B, "dino-vitb8"]["voc20"][1].value == 80.3


def test_only_the_standard_protocol_can_be_the_best(tmp_path):
    rows = table(rendered(tmp_path, run())["benchmark"])
    bold = {names for names, cells in rows.items() for _, paper in cells.values() if paper.font.bold}
    marked = {(row["model"], row["clip"]) for row in PUBLISHED["mIoU"] if not row["same_protocol_as_ours"]}
    assert bold and not {names[:2] for names in bold} & marked


def test_a_row_that_is_not_confirmed_says_so(tmp_path):
    row = {"model": "A", "clip": B, "vfm": None, "mIoU": {"voc20": 99.0}, "same_protocol_as_ours": True}
    cell = table(rendered(tmp_path, run(), published={"mIoU": [row]})["benchmark"])["A", B, "–"]["voc20"][1]
    assert (cell.value, cell.number_format, bool(cell.font.bold)) == (99, '0.0" ?"', False)


def test_sheet_of_published_scores(tmp_path):
    sheet = rendered(tmp_path)["published"]
    titles = [cell.value for cell in sheet[1]]
    assert sheet.max_row == 1 + len(PUBLISHED["mIoU"])
    rows = [dict(zip(titles, (cell.value for cell in row), strict=True)) for row in sheet.iter_rows(min_row=2)]
    for row, source in zip(rows, PUBLISHED["mIoU"], strict=True):
        assert (row["Model"], row["source"], row["protocol"]) == (source["model"], source["source"], source["protocol"])
        assert row["our protocol"] == ("yes" if source["same_protocol_as_ours"] else "no")
        assert row["VOC20"] == source["mIoU"].get("voc20")
        assert row["average as printed"] == source["average"]


def test_an_average_is_of_one_row(tmp_path):
    """ProxyCLIP's re-run has four of the eight datasets: it borrows none of the paper's."""
    lines = [run(name) for name in ("voc20", "voc21")]
    rows = table(rendered(tmp_path, *lines)["benchmark"])
    assert rows["ProxyCLIP (public re-run of the code)", B, "dino-vitb8"]["average of 2"][1].value is None
    assert rows["ProxyCLIP", B, "dino-vitb8"]["average of 2"][1].value == pytest.approx((80.3 + 61.3) / 2)


def test_the_summary_says_what_is_published_and_how_it_compares():
    assert format_run(run(), PUBLISHED).endswith("published mIoU: 80.3")
    assert "published" not in format_run(run(model="MaskCLIP", vfm=None), PUBLISHED)  # of another protocol
    assert "published mIoU_present: 97.0 (another protocol" in format_run(run(**CATSEG), PUBLISHED)
    changed = format_run(run(changed={"beta": 1.6}), PUBLISHED)
    assert changed.startswith(f"voc20: ProxyCLIP (beta 1.6) {B} dino-vitb8, 10 images, 2.5 images/s\n")
    assert "published" not in changed


def test_the_shipped_rows_are_whole():
    rows = PUBLISHED["mIoU"]
    assert len({(row["model"], row["clip"], row["vfm"]) for row in rows}) == len(rows)
    for row in rows:
        assert (
            row["source"] and row["protocol"] and type(row["same_protocol_as_ours"]) is type(row["confirmed"]) is bool
        )
        assert row.get("training") == (TRAINING if row["method"] == "CAT-Seg" else None)
        assert row["metric"] == ("mIoU_present" if row["method"].startswith("CAT-Seg") else "mIoU")
        assert all(0 < value < 100 for value in row["mIoU"].values())
        if row["method"] in ("CLIP", "MaskCLIP", "CAT-Seg"):
            assert not row["same_protocol_as_ours"]
    corrclip = {(row["model"], row["clip"].partition(":")[2]) for row in rows if row["method"] == "CorrCLIP"}
    assert {tag for model, tag in corrclip if "MetaCLIP" in model} == {"metaclip_fullcc"}
    assert {tag for model, tag in corrclip if model == "CorrCLIP"} == {"openai"}


def test_unseen_classes_are_sets_that_the_datasets_have():
    data = {config.data.name: config.data for config in map(configs.load_config, configs.names())}
    for row in PUBLISHED["zero_shot"]:
        assert row["split"] in data[row["dataset"]].unseen and row["source"]
