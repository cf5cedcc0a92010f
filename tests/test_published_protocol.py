"""--protocol published: what it changes on each benchmark, and where its scores stand."""

import json

import numpy as np
import pytest
import tiny_benchmarks
import tiny_model
from runs import B, rendered, run, table

import eval as eval_script
import eval_all
from configs import load as configs
from configs.overrides import read_overrides
from configs.published import PUBLISHED
from configs.published_protocols import METHODS, published_protocol
from proxyclip.errors import InputError
from proxyclip.loading import plan
from proxyclip.methods import find_method
from proxyclip.reports.frames import published_score
from proxyclip.reports.html_report import format_run

BENCHMARKS = {config.data.name: config for config in map(configs.load_config, configs.names())}
EIGHT = ("voc20", "voc21", "context59", "context60", "coco_object", "coco_stuff164k", "city_scapes", "ade20k")
FAMILY = {"short_side": 336, "crop": 224, "stride": 112, "logit_scale": 40.0}


def settings(method: str, dataset: str) -> dict:
    """All that the published protocol says, as plain values."""
    config, model = published_protocol(BENCHMARKS[dataset], method)
    own = {name: getattr(config, name) for name in (*FAMILY, "threshold", "background")}
    return own | {"person": len(config.prompts.get("person", "person").split(";"))} | model


@pytest.mark.parametrize(
    "method, dataset, expected",
    [
        ("sclip", "voc20", {**FAMILY, "multiple": 1, "person": 7}),
        ("sclip", "voc21", {"logit_scale": 65.0, "area": 0.1, "threshold": 0.1, "background": "vocabulary"}),
        ("sclip", "context60", {"logit_scale": 50.0, "threshold": 0.1, "background": "threshold"}),
        ("sclip", "coco_object", {"logit_scale": 50.0, "threshold": 0.1, "person": 8}),
        ("sclip", "coco_stuff164k", {"short_side": 448, "crop": 224}),
        ("sclip", "cityscapes", {"short_side": 560, "crop": 224}),
        ("sclip", "ade20k", FAMILY),
        ("naclip", "voc21", {"crop": 0, "two_steps": True, "threshold": 0.1, "refine": "pamr", "logit_scale": 40.0}),
        ("naclip", "coco_stuff164k", {"short_side": 336, "refine": "pamr"}),
        ("pearl", "ade20k", {"alpha": 0.3, "refine": "tlp"}),
        ("scclip", "voc21", {"logit_scale": 50.0, "threshold": 0.15, "area": 0.1}),
        ("scclip", "context60", {"logit_scale": 50.0, "threshold": 0.15}),
        ("scclip", "coco_object", {"logit_scale": 55.0, "threshold": 0.35}),
        ("clearclip", "voc20", {"short_side": 448, "crop": 448, "stride": 224, "logit_scale": 50.0, "person": 1}),
        ("clearclip", "voc21", {"threshold": 0.5, "background": "threshold"}),
        ("clearclip", "coco_object", {"threshold": 0.4, "background": "threshold"}),
        ("clearclip", "cityscapes", {"short_side": 448, "crop": 224, "stride": 224}),
        ("glaclip", "voc20", {"short_side": 448, "crop": None}),
    ],
)
def test_what_the_published_runs_did(method, dataset, expected):
    assert expected.items() <= settings(method, dataset).items()


@pytest.mark.parametrize("method", METHODS)
def test_every_protocol_is_one_of_its_method(method):
    for dataset, config in BENCHMARKS.items():
        try:
            config, chosen = published_protocol(config, method)
        except InputError as error:
            assert f"says nothing about {dataset}" in str(error)
            continue
        planned = plan("mini", method=method, **config.model_options | chosen)
        for name, value in (config.model_options | chosen).items():
            assert name == "refine" or getattr(planned.options, name) == value
        assert planned.module is find_method(method)
        assert config.vocabulary.names == tuple(config.data.classes)


def test_words_of_the_background():
    config, _ = published_protocol(BENCHMARKS["voc21"], "sclip")
    assert len(config.vocabulary.queries) == 26 + 18 + 7 + 5
    config, _ = published_protocol(BENCHMARKS["voc21"], "clearclip")
    assert config.queries[0] == "background" and len(config.vocabulary.queries) == 21
    config, _ = published_protocol(BENCHMARKS["coco_object"], "sclip")
    assert len(config.vocabulary.queries) == 26 + 79 + 8


def test_settings_change_the_published_protocol():
    overrides = read_overrides(BENCHMARKS["voc20"], ["refine=none", "stride=56"], "naclip", published=True)
    assert overrides.standard.crop == overrides.config.crop == 0 and overrides.config.stride == 56
    assert overrides.of_protocol | overrides.model == {"multiple": 1, "two_steps": True, "refine": "none"}


def test_what_is_not_published_is_refused():
    with pytest.raises(InputError, match="maskclip has no published protocol here; those with one: clearclip, clip"):
        published_protocol(BENCHMARKS["voc20"], "maskclip")
    with pytest.raises(InputError, match="the published protocol of sclip says nothing about ade847, only about voc20"):
        published_protocol(BENCHMARKS["ade847"], "sclip")


def test_eval_and_eval_all_follow_the_published_protocol(tmp_path):
    stored = [np.tile(np.array([[1, 2], [3, 255]]), (24, 30)).repeat(1, 0) for _ in range(2)]
    tiny_benchmarks.build(tmp_path / "data", "cfg_voc20", stored)
    pair = [setting for setting in tiny_model.save(tmp_path / "model") if setting.startswith(("clip=", "vfm="))]
    model = ["--set", *pair, "short_side=32"]
    common = ["--data-root", str(tmp_path / "data"), "--workdir", str(tmp_path / "out")]
    more = [*model, "--device", "cpu", "--workers", "0"]
    eval_script.main(["--config", "voc20", "--method", "naclip", "--protocol", "published", *common, *more])
    eval_all.main(["--configs", "voc20", "--models", "vitb16-dino", "--methods", "naclip", "--protocol", "published",
                   *common, "--resume", "--", *more])  # fmt: skip
    (line,) = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    protocol = line["protocol"]
    assert protocol["name"] == "published" and protocol["refine"]["name"] == "pamr" and protocol["multiple"] == 1
    assert (protocol["crop"], protocol["two_steps"], protocol["short_side"]) == (0, True, 32)
    assert line["changed"] == {"short_side": 32}
    eval_script.main(["--config", "voc20", "--method", "naclip", *common, *more])
    line = json.loads((tmp_path / "out" / "results.jsonl").read_text().splitlines()[-1])
    assert "name" not in line["protocol"] and "refine" not in line["protocol"] and line["protocol"]["crop"] == 336


def test_published_protocols_of_several_methods_and_benchmarks(capsys):
    tasks = eval_all.tasks_of(eval_all.parse(["--methods", "sclip", "proxyclip", "--protocol", "published"]))
    assert {task.config.stem for task in tasks if task.method == "sclip"} == {f"cfg_{name}" for name in EIGHT}
    assert {"cfg_ade847", "cfg_context459"} <= {task.config.stem for task in tasks if task.method == "proxyclip"}
    for options, said in (
        (["--configs", "ade847", "--methods", "sclip"], "says nothing about ade847"),
        (["--methods", "maskclip"], "maskclip has no published protocol"),
    ):
        with pytest.raises(SystemExit, match="2"):
            eval_all.main([*options, "--protocol", "published"])
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        eval_script.main(["--config", "voc20", "--method", "maskclip", "--protocol", "published"])


def test_scores_stand_under_the_protocol_they_belong_to(tmp_path):
    ours = run(model="NACLIP", vfm=None)
    theirs = run(model="NACLIP", vfm=None, protocol={"name": "published"})
    printed = next(row for row in PUBLISHED["mIoU"] if row["model"] == "NACLIP + PAMR")
    assert published_score(ours, PUBLISHED) is None
    assert published_score(theirs, PUBLISHED)[:3] == (printed["mIoU"]["voc20"], "mIoU", "")
    assert published_score(theirs | {"changed": {"refine": "none"}}, PUBLISHED) is None
    assert format_run(theirs, PUBLISHED).startswith("voc20: NACLIP, published protocol ViT-B-16:openai")
    rows = table(rendered(tmp_path, ours, theirs)["benchmark"])
    assert rows["NACLIP", B, "–"]["voc20"][1].value is None
    own, paper = rows["NACLIP, published protocol", B, "–"]["voc20"]
    assert (own.value, paper.value, paper.number_format) == (50, printed["mIoU"]["voc20"], "0.0")
    assert not own.font.bold and not paper.font.bold  # neither compares with the other rows
    assert rows["NACLIP", B, "–"]["voc20"][0].font.bold
    assert rows["NACLIP, as printed", B, "–"]["voc20"][1].number_format == '0.0" §"'
