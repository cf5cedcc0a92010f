"""The configurations of training runs: what was published, field by field, and that each one can be built."""

import importlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from configs.load import load_config, training_runs
from configs.overrides import read_overrides
from configs.published_protocols import published_protocol
from configs.training import TrainConfig, read_train_settings
from heads import find_head
from heads.training.plan import plan_head
from proxyclip.errors import InputError, NotFound

FOLDER = Path(__file__).parents[1] / "configs" / "heads"
NAMES = sorted(training_runs())
HEADS = {"zegclip": "ZegCLIP", "otseg": "OTSeg", "cascade_clip": "Cascade-CLIP"}
CAT_SEG = {  # name before the dataset's -> published configuration, None for those with other guidance
    "cat_seg": "configs/vitb_384.yaml", "cat_seg_large": "configs/vitl_336.yaml",
    "cat_seg_r101": None, "cat_seg_swin_b": None, "cat_seg_swin_b_huge": None, "cat_seg_swin_b_giant": None,
}  # fmt: skip
DATASETS = {
    "voc20": ("ZeroPascalVOCDataset20",),
    "context59": ("ZeroPascalVOCDataset59", "ZeroPascalContextDataset59"),
    "coco_stuff164k": ("ZeroCOCOStuffDataset",),
}
SETTINGS = {
    "inductive": "inductive", "transductive": "transductive (self-training)", "fully": "fully supervised"
}  # fmt: skip
# Published values that are slips, with what is done instead; and configurations that were not published.
SLIPS = {
    ("otseg_voc20_fully", "load_text_embedding"): "context_otseg.npy",  # of another dataset
    ("otseg_voc20_transductive", "load_text_embedding"): "context_otseg.npy",
    ("otseg_coco_stuff164k_fully", "number_prompts"): None,  # its file holds 8
}
UNPUBLISHED = {
    "zegclip_context59_inductive", "zegclip_context59_transductive", "zegclip_context59_fully",
    "cascade_clip_voc20_fully", "cascade_clip_context59_fully", "cascade_clip_coco_stuff164k_fully",
}  # fmt: skip
LIKE_PUBLISHED = [name for name in NAMES if not name.startswith("cat_seg") and "scenes" not in name
                  and name not in UNPUBLISHED]  # fmt: skip
EMBEDDINGS = {  # file -> dataset, prompts
    "voc12_single.npy": ("voc20", 1), "coco_multi.npy": ("coco_stuff164k", 15), "coco_otseg.npy": ("coco_stuff164k", 8),
    "context-59_multi.npy": ("context59", 15), "voc12_otseg.npy": ("voc20", 6), "context_otseg.npy": ("context59", 8),
}  # fmt: skip


def load(name: str) -> TrainConfig:
    return load_config(name, TrainConfig)


def split_name(name: str) -> tuple[str, str, str]:
    """Name of the head with its variant, of the dataset, and of the setting."""
    head = max((head for head in (*HEADS, *CAT_SEG) if name.startswith(head)), key=len)
    dataset, _, setting = name.removeprefix(f"{head}_").rpartition("_")
    return head, dataset, setting


def options_of(config: TrainConfig):
    return find_head(config.head).Options(**config.options)


def test_every_combination_is_there():
    expected = {f"{head}_{data}_{setting}" for head in HEADS for data in (*DATASETS, "scenes") for setting in SETTINGS}
    expected |= {f"cat_seg_scenes_{setting}" for setting in SETTINGS}
    expected |= {f"{head}_coco_stuff164k_fully" for head in CAT_SEG}
    expected |= {f"cat_seg_r101_{data}_fully" for data in ("ade20k", "context59")}
    assert set(NAMES) == expected


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_can_be_built(name):
    """All but weights and data: with its options on its CLIP, and the classes of its setting."""
    head, dataset, setting = split_name(name)
    config, head = load(name), "cat_seg" if head in CAT_SEG else head
    assert (config.head, config.data.name, config.setting) == (head, dataset, setting)
    planned = plan_head(head, config.options, config.clip, config.data.classes, config.seen, "cpu")
    unseen = 0 if setting == "fully" else len(config.left_out)
    assert len(config.seen) + unseen == len(config.data.classes)
    assert bool(config.left_out) == (head != "cat_seg" or dataset == "scenes")
    assert config.known == (config.seen if setting == "inductive" else config.data.classes)
    assert planned.name == head and planned.options.image_size >= planned.options.crop
    assert (planned.options.seen_penalty == 0) == (setting == "transductive" or head == "cat_seg")
    record = config.record()
    assert json.loads(json.dumps(record)) == record and record["seen"] == list(config.seen)


def official_configs() -> dict:
    """Name of the project -> its published configurations."""
    if "GOLDEN_DIR" not in os.environ:
        pytest.skip("GOLDEN_DIR is not set")
    return json.loads((Path(os.environ["GOLDEN_DIR"]) / "heads" / "official_configs.json").read_text())


def published() -> dict[str, dict]:
    """Our name -> the published configuration, of all heads but CAT-Seg."""
    found = official_configs()
    names = {
        (HEADS[head], theirs, SETTINGS[setting]): f"{head}_{data}_{setting}"
        for head in HEADS for data in DATASETS for theirs in DATASETS[data] for setting in SETTINGS
    }  # fmt: skip
    return {
        names[key]: config
        for project in HEADS.values()
        for config in found[project]["configs"]
        if (key := (project, config["dataset_type"], config["setting"])) in names
    }


def test_all_but_the_named_ones_were_published():
    assert {*LIKE_PUBLISHED} == published().keys()


@pytest.mark.parametrize("name", LIKE_PUBLISHED)
def test_published_values(name):
    theirs, config = dict(published()[name]), load(name)
    for (slip, field), value in SLIPS.items():
        if slip == name:
            assert theirs.pop(field) == value
    options, backbone, head = options_of(config), theirs["backbone"], theirs["decode_head"]
    loss, augment = head["loss_decode"], config.augment
    assert config.clip == "ViT-B-16:openai" and (backbone["patch_size"], backbone["layers"]) == (16, 12)

    # The run
    optimizer, schedule = theirs["optimizer"], theirs["lr_config"]
    factors = {key: optimizer["paramwise_cfg"]["custom_keys"][key]["lr_mult"] for key in ("backbone", "head")}
    assert (optimizer["type"], {*factors.values()}) == ("AdamW", {10.0}) and not config.rate_factors
    assert config.rate == pytest.approx(10 * optimizer["lr"]) and config.weight_decay == optimizer["weight_decay"]
    assert theirs["optimizer_config"] == {} and config.clip_norm == 0
    assert (config.schedule, config.power) == (schedule["policy"], schedule["power"])
    assert (config.min_rate, config.warmup) == (schedule["min_lr"], schedule["warmup_iters"])
    assert (schedule["warmup"], config.warmup_ratio) == ("linear", schedule["warmup_ratio"])
    assert config.iterations == theirs["max_iters"]
    assert (config.batch, config.accumulation) == (theirs["samples_per_gpu"], 1)
    assert config.published_batch == theirs["samples_per_gpu"] * theirs["gpus_in_launch_script"]

    # The head
    assert options.prompts == backbone["num_tokens"] and backbone["prompt_dim"] == backbone["width"]
    assert backbone["total_d_layer"] == 11 and options.prompt_blocks is None  # all blocks
    assert options.image_size == theirs["img_size"] == head["img_size"] == backbone["input_resolution"]
    assert (options.decoder_layers, options.decoder_heads) == (head["num_layers"], head["num_heads"])
    assert not head.get("use_proj") and options.dropout == 0.1
    assert list(getattr(options, "levels", (11,))) == backbone["out_indices"]
    assert (config.mask_weight, config.dice_weight) == (loss["mask_weight"], loss["dice_weight"])
    assert config.void == "negative" and options.text_embeddings is None
    assert (options.seen_penalty == 0) == theirs["self_training"]
    if "load_text_embedding" in theirs:
        assert EMBEDDINGS[theirs["load_text_embedding"]] == (config.data.name, len(options.templates))
    if theirs.get("number_prompts"):
        assert len(options.templates) == theirs["number_prompts"]

    # Windows and images
    test = theirs["test_cfg"]
    assert (test["mode"], test["crop_size"], test["stride"]) == ("slide", [options.crop] * 2, [options.stride] * 2)
    steps = {step["type"]: step for step in theirs["train_pipeline"]}
    order = ["Resize", "RandomCrop", "RandomFlip", "PhotoMetricDistortion", "Normalize", "Pad"]
    assert [step for step in steps if step in order] == order and augment.distort
    assert list(augment.scale) == steps["Resize"]["img_scale"]
    assert list(augment.ratio) == steps["Resize"]["ratio_range"]
    assert steps["RandomCrop"]["crop_size"] == [options.image_size] * 2 == steps["Pad"]["size"]
    assert (augment.max_share, augment.flip) == (steps["RandomCrop"]["cat_max_ratio"], steps["RandomFlip"]["prob"])
    scaled = theirs["test_pipeline"][1]
    least = scaled["transforms"][0]["min_size"]
    assert options.short_side == max(min(scaled["img_scale"]), least)

    # The data
    unseen = [config.data.classes.index(name) for name in config.left_out]
    assert config.setting == "fully" or sorted(unseen) == sorted(theirs["unseen_idx"])
    assert len(config.data.classes) == theirs["num_classes_total"] and len(config.seen) == theirs["num_seen"]
    assert (config.train_split, config.evaluated) == ("train", "val")


@pytest.mark.parametrize("head", [head for head, file in CAT_SEG.items() if file])
def test_published_values_of_cat_seg(head):
    project, config = official_configs()["CAT-Seg"], load(f"{head}_coco_stuff164k_fully")
    (theirs,) = (found["merged"] for found in project["configs"] if found["config"] == CAT_SEG[head])
    options, augment, defaults = options_of(config), config.augment, project["code_defaults"]
    model, solver, inputs, test = theirs["MODEL"]["SEM_SEG_HEAD"], theirs["SOLVER"], theirs["INPUT"], theirs["TEST"]
    clip = model["CLIP_PRETRAINED"]

    # The run
    assert (solver["OPTIMIZER"], solver["BASE_LR"]) == ("ADAMW", config.rate)
    assert (solver["WEIGHT_DECAY"], config.decay_norms) == (config.weight_decay, False)
    assert defaults["WEIGHT_DECAY_NORM"] == "detectron2 default 0.0"
    assert (solver["LR_SCHEDULER_NAME"], config.schedule, config.min_rate) == ("WarmupCosineLR", "cosine", 0)
    assert (solver["WARMUP_ITERS"], solver["MAX_ITER"]) == (config.warmup, config.iterations)
    assert config.rate_factors == {"clip.": solver["CLIP_MULTIPLIER"]}
    limit = solver["CLIP_GRADIENTS"]
    assert limit == {"ENABLED": True, "CLIP_TYPE": "full_model", "CLIP_VALUE": config.clip_norm, "NORM_TYPE": 2}
    assert (config.batch, config.accumulation, config.published_batch) == (1, 1, solver["IMS_PER_BATCH"])
    assert (config.loss, config.void, config.evaluate_every) == ("cross_entropy", "negative", test["EVAL_PERIOD"])

    # The head
    assert config.clip == {"ViT-B/16": "ViT-B-16:openai", "ViT-L/14@336px": "ViT-L-14-336:openai"}[clip]
    of_clip = {key: defaults[key].get(clip, defaults[key]["otherwise"]) for key in ("layer_indexes", "clip_resolution")}
    assert (list(options.guidance_blocks), options.clip_size) == (of_clip["layer_indexes"], of_clip["clip_resolution"])
    assert options.clip_size // {"ViT-B/16": 16, "ViT-L/14@336px": 14}[clip] == model["FEATURE_RESOLUTION"][0]
    assert (options.guidance, options.finetune, options.prompts) == ("clip", model["CLIP_FINETUNE"], 0)
    assert (model["PROMPT_LENGTH"], model["PROMPT_DEPTH"]) == (0, 0)
    names = {"image_guidance": "APPEARANCE_GUIDANCE_PROJ_DIM", "text_guidance": "TEXT_GUIDANCE_PROJ_DIM",
             "layers": "NUM_LAYERS", "attention_heads": "NUM_HEADS", "hidden": "HIDDEN_DIMS",
             "window": "WINDOW_SIZES", "attention": "ATTENTION_TYPE"}  # fmt: skip
    assert {name: getattr(options, name) for name in names} == {name: model[key] for name, key in names.items()}
    names = {"decoder": "DECODER_DIMS", "guidance_features": "DECODER_GUIDANCE_DIMS",
             "decoder_guidance": "DECODER_GUIDANCE_PROJ_DIMS"}  # fmt: skip
    assert {name: list(getattr(options, name)) for name in names} == {name: model[key] for name, key in names.items()}
    assert model["POOLING_SIZES"] == [options.pooling] * 2 and options.pad_len == defaults["pad_len"]
    assert project["evaluation"]["POOLING_SIZES"] == [options.evaluation_pooling] * 2
    assert theirs["MODEL"]["PROMPT_ENSEMBLE_TYPE"] == "single" and options.templates == (
        "A photo of a {} in the scene",
    )
    assert (options.synonyms, options.text_embeddings) == ("first", None)

    # Windows and images
    views = defaults["sliding_window"]
    assert (options.crop, options.stride, [options.square] * 2) == (
        views["kernel"], views["stride"], views["image_resized_to"],
    )  # fmt: skip
    assert (options.short_side, options.long_side) == (inputs["MIN_SIZE_TEST"], inputs["MAX_SIZE_TEST"])
    assert augment.scale == (1333, *inputs["MIN_SIZE_TRAIN"]) and augment.ratio == (1, 1) and augment.antialias
    assert (inputs["CROP"]["TYPE"], inputs["CROP"]["SIZE"]) == ("absolute", [options.image_size] * 2)
    assert inputs["SIZE_DIVISIBILITY"] == options.image_size and augment.padding == (128 / 255,) * 3
    assert augment.max_share == inputs["CROP"]["SINGLE_CATEGORY_MAX_AREA"]
    assert (augment.distort, augment.flip) == (inputs["COLOR_AUG_SSD"], 0.5)

    # The data
    assert len(config.seen) == len(config.data.classes) == model["NUM_CLASSES"]
    assert theirs["DATASETS"]["TRAIN"] == ["coco_2017_train_stuff_all_sem_seg"] and config.train_split == "train"


def test_cat_seg_as_in_mmsegmentation():
    of_authors = options_of(load("cat_seg_r101_coco_stuff164k_fully"))
    names = "r101_ade20k", "r101_context59", "swin_b_huge_coco_stuff164k", "swin_b_giant_coco_stuff164k"
    for config in (load(f"cat_seg_{name}_fully") for name in names):
        options = options_of(config)
        assert (options.short_side, options.long_side, options.crop, options.stride) == (512, 2048, 384, 384)
        assert options.square == 0 and len(set(options.templates)) == 80 and config.iterations == 80_000
    assert options_of(load("cat_seg_r101_ade20k_fully")) == replace(
        of_authors, short_side=512, long_side=2048, square=0, stride=384, templates=options.templates
    )


def test_templates_of_the_published_text_embeddings():
    """As listed with the published files."""
    options = {name: options_of(load(f"{name}_inductive")) for name in ("zegclip_coco_stuff164k", "otseg_voc20")}
    fifteen = options["zegclip_coco_stuff164k"].templates
    assert (
        len(set(fifteen)) == 15 and fifteen[0] == "a photo of a {}." and fifteen[-1] == "This is one {} in the scene."
    )
    assert options["otseg_voc20"].templates == find_head("otseg").Options().templates[:6]
    assert options_of(load("zegclip_voc20_inductive")).templates == ("a photo of a {}",)
    if "GOLDEN_DIR" in os.environ:
        listed = (Path(os.environ["GOLDEN_DIR"]) / "text_embedding" / "README.md").read_text()
        assert all(f'"{template}"' in listed for template in fifteen)


CROSS = {  # name of the published configuration -> trained on, evaluated on
    "coco-to-voc": ("coco_stuff164k", "voc20"), "coco-to-context": ("coco_stuff164k", "context59"),
    "coco-to-ade": ("coco_stuff164k", "ade20k"), "context-to-voc": ("context59", "voc20"),
    "context-to-coco": ("context59", "coco_stuff164k"),
}  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
def test_evaluations_on_other_datasets_are_as_published(head):
    """Sizes, and the number of templates where the published one is that of the training."""
    published = {Path(theirs["config"]).stem: theirs for theirs in official_configs()[HEADS[head]]["configs"]}
    names = published.keys() & CROSS.keys()
    assert len(names) == (5 if head == "otseg" else 2)
    for name in names:
        (source, target), theirs = CROSS[name], published[name]
        if head == "zegclip" and target == "context59":
            target = "context60"  # all 60 classes, the background among them
        setting = "transductive" if head == "otseg" else "inductive"
        trained, standard = load(f"{head}_{source}_{setting}"), load_config(target)
        config, changed = published_protocol(standard, head, source)
        options = find_head(head).Options(**trained.options | changed)
        test = theirs["test_cfg"]
        assert (test["crop_size"], test["stride"]) == ([options.crop] * 2, [options.stride] * 2), name
        assert options.image_size == theirs["img_size"] and len(config.data.classes) == theirs["num_classes_total"]
        scaled = theirs.get("test_pipeline", [{}, {"img_scale": [512], "transforms": [{}]}])[1]
        assert options.short_side == max(min(scaled["img_scale"]), scaled["transforms"][0].get("min_size", 0)), name
        single = theirs["load_text_embedding"] == "voc12_single.npy"
        assert (len(options.templates) == 1) == single, name
        assert (config.background, config.threshold) == ("none", None)


def test_the_commands_in_the_docs_are_those_of_the_published_evaluations():
    text = (FOLDER.parents[1] / "docs" / "training.md").read_text()
    commands = re.findall(r"`python eval.py --config cfg_(\w+).py --checkpoint \S+ --train-config (\w+) P`", text)
    pairs = {(load(run).head, load(run).data.name, load_config(name).data.name) for name, run in commands}
    tables = {head: importlib.import_module(f"configs.heads.{head}").published for head in HEADS}
    assert pairs == {(head, source, target) for head, table in tables.items()
                     for source, protocol in table.items() for target in protocol.benchmarks}  # fmt: skip
    assert len(commands) == 9


def test_what_is_published_of_a_head():
    for head, dataset, target, sentence in (
        ("zegclip", "voc20", "ade20k", "zegclip trained on voc20 has no published protocol for other datasets, only"),
        ("otseg", "context59", "ade20k", "of otseg trained on context59 says nothing about ade20k, only about voc20"),
        ("otseg", None, "voc20", "a published protocol of otseg needs the dataset of its training: name the"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=sentence):
            published_protocol(load_config(target), head, dataset)
    assert published_protocol(load_config("voc20"), "zegclip", "voc20") == (load_config("voc20"), {})
    given = ["stride=256"], "otseg", find_head("otseg").Options
    overrides = read_overrides(load_config("voc20"), *given, published=True, trained_on="coco_stuff164k")
    assert (overrides.of_protocol, overrides.model, overrides.published) == ({"stride": 380}, {"stride": 256}, True)


BASE = replace(load("zegclip_scenes_inductive"), rate=1e-3, iterations=1000, warmup=50)
OPTIONS = find_head("cascade_clip").Options


@pytest.mark.parametrize(("setting", "sentence"), [
    ("rate", "cannot set 'rate': write FIELD=VALUE"),
    ("rte=1", "cannot set rte=1: no field 'rte' in the configuration or head zegclip; did you mean rat"),
    ("rate=high", "rate must be a finite number, not 'high'"),
    ("rate=-1", "rate is -1.0; it must be at least 0 and at most 1"),
    ("rate=1e-9", "min_rate 1e-06 is larger than rate 1e-09"),
    ("batch=0", "batch is 0; it must be at least 1 and at most 4096"),
    ("batch=1.5", "batch must be a whole number, not '1.5'"),
    ("iterations=0", "iterations is 0; it must be at least 1"),
    ("iterations=9999999", "iterations is 9999999; choose a number of at most 1000000"),
    ("iterations=50", "warmup 50 is not shorter than 50 iterations: add --set warmup=5"),
    ("schedule=step", "schedule must be one of 'poly', 'cosine', not 'step'"),
    ("setting=half", "setting must be one of 'inductive', 'transductive', 'fully', not 'half'"),
    ("void=ignored", "void must be one of 'negative', 'masked', not 'ignored'"),
    ("unseen=zegclip", "scenes has no unseen 'zegclip'; Known: scenes"),
    ("train_split=training", "scenes has no split 'training'; did you mean train"),
    ("evaluation_split=val", "scenes has no split 'val'"),
    ("checkpointing=yes", "checkpointing must be true or false, not 'yes'"),
    ("levels=1;2", "levels must be whole numbers, as in 1,2,3, not '1;2'"),
    ("levels=1,,2", "levels must be whole numbers, as in 1,2,3, not '1,,2'"),
    ("flip=2", "augment: flip must be a probability from 0 to 1, not 2.0"),
    ("ratio=2,0.5", "augment: ratio must be .lowest, highest. in this order"),
    ("scale=128", "augment: scale must be a tuple of two whole numbers of pixels"),
    ("benchmark=voc20", "cannot set benchmark: it is part of the configuration file"),
    ("head=otseg", "cannot set head: it is part of the configuration file"),
])  # fmt: skip
def test_settings_that_are_refused(setting, sentence):
    with pytest.raises(InputError, match=sentence):
        read_train_settings(BASE, [setting], OPTIONS)


def test_settings_are_read_by_their_annotations():
    given = ["rate=1e-2", "levels=1, 2,3", "flip=0", "scale=64,32", "crop=32", "templates=a {}, here", "unseen=scenes",
             "checkpointing=true", "prompt_blocks=none", "published_batch=none", "evaluation_split=test"]  # fmt: skip
    config = read_train_settings(BASE, given, OPTIONS)
    assert (config.rate, config.checkpointing, config.published_batch) == (0.01, True, None)
    assert (config.augment.flip, config.augment.scale, config.augment.crop) == (0.0, (64, 32), BASE.augment.crop)
    changed = {"levels": (1, 2, 3), "crop": 32, "templates": ("a {}, here",), "prompt_blocks": None}
    assert config.options == {**BASE.options, **changed} and config.evaluated == "test"
    assert BASE.evaluated == "tune" and BASE.rate != 0.01


@pytest.mark.parametrize(("fields", "sentence"), [
    ("rte=1", "TrainConfig has no field 'rte'; did you mean rate"),
    ("setting='inductive'", "setting inductive needs unseen, the name of a split of classes"),
    ("options={1: 2}", "options must be a dict from names to values"),
    ("rate_factors={'clip.': 'small'}", "rate_factors.'clip.'. must be a finite number, not 'small'"),
    ("rate_factors={'clip.': -1.0}", "rate_factors.'clip.'. is -1.0; it must be at least 0"),
    ("augment={'flip': 0}", "augment must be Augment"),
    ("benchmark='voc20'", "benchmark must be EvalConfig, not 'voc20'"),
    ("iterations='many'", "iterations must be a whole number, not 'many'"),
])  # fmt: skip
def test_a_configuration_file_that_is_refused(fields, sentence, tmp_path):
    known = "benchmark=config", "head='zegclip'", "setting='fully'", "iterations=2000"
    given = [field for field in known if field.split("=")[0] != fields.split("=")[0]]
    file = tmp_path / "mine.py"
    file.write_text("from configs.cfg_scenes import config\nfrom configs.training import TrainConfig\n"
                    f"config = TrainConfig({', '.join([*given, fields])})\n")  # fmt: skip
    with pytest.raises(InputError, match=f"mine.py: {sentence}"):
        load_config(file, TrainConfig)


def test_a_configuration_of_another_kind():
    with pytest.raises(InputError, match="`config` must be TrainConfig"):
        load_config("cfg_scenes", TrainConfig)
    with pytest.raises(
        InputError, match="zegclip.py does not set `config`, but holds runs .*: zegclip_voc20_inductive,"
    ):
        load_config(FOLDER / "zegclip.py", TrainConfig)
    fully = load("zegclip_scenes_fully")
    for name in ("zegclip_scenes_fully", FOLDER / "zegclip_scenes_fully.py"):  # where a benchmark is wanted
        assert load_config(name) == fully.benchmark
    assert load(FOLDER / "zegclip_scenes_fully.py") == load("zegclip_scenes_fully.py") == fully
    with pytest.raises(NotFound, match="unknown configuration 'zegclip_voc21_fully'; did you mean zegclip_voc20_fully"):
        load("zegclip_voc21_fully")


@pytest.mark.parametrize(("options", "sentence"), [
    ({"prompt": 3}, "head zegclip has no option 'prompt'; did you mean prompts"),
    ({"prompts": "many"}, "prompts must be a whole number, not 'many'"),
    ({"decoder_heads": 5}, "decoder_heads 5 does not divide the width 128"),
    ({"prompt_blocks": 6}, "prompt_blocks is 6; choose at most 5: this CLIP has 6 blocks"),
    ({"image_size": 4}, "image_size 4 is smaller than one patch of 8 pixels"),
    ({"stride": 65}, "stride"),
    ({"templates": ("a photo",)}, "template"),
])  # fmt: skip
def test_options_that_do_not_fit_the_clip_are_found_without_its_weights(options, sentence, monkeypatch):
    monkeypatch.setattr("heads.training.plan.load_clip", None)
    with pytest.raises(InputError, match=sentence):
        plan_head("zegclip", {**BASE.options, **options}, "mini", BASE.data.classes, BASE.seen, "cpu")
    with pytest.raises(InputError, match="levels is .1, 9., but the last of this CLIP's 6 blocks is always used"):
        wrong = {**load("cascade_clip_scenes_fully").options, "levels": (1, 9)}
        plan_head("cascade_clip", wrong, "mini", BASE.data.classes, BASE.seen, "cpu")


@pytest.mark.parametrize(("arguments", "sentence"), [
    (("zegclipp", {}, "mini"), "unknown head 'zegclipp'; did you mean zegclip"),
    (("zegclip", BASE.options, "ViT-B-61"), "unknown CLIP 'ViT-B-61'"),
    (("zegclip", BASE.options, "mini", "cpu", "fp16"), "fp16 is for inference"),
    (("zegclip", BASE.options, "mini", "gpu"), "unknown device 'gpu'"),
])  # fmt: skip
def test_names_that_do_not_exist(arguments, sentence):
    head, options, clip, *place = arguments
    with pytest.raises(InputError, match=sentence):
        plan_head(head, options, clip, BASE.data.classes, BASE.seen, *(place or ["cpu"]))
