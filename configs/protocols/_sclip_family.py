"""What the published runs of SCLIP and its successors share: their words, windows and thresholds."""

PERSON = (
    "person; person in shirt; person in jeans; person in dress; person in sweater; person in skirt; person in jacket"
)
BACKGROUND = (
    "sky; wall; tree; wood; grass; road; sea; river; mountain; sands; desk; bed; building; cloud; lamp; door; window; "
    "wardrobe; ceiling; shelf; curtain; stair; floor; hill; rail; fence"
)
VOC_WORDS = {"person": PERSON, "tvmonitor": "television monitor; tv monitor; monitor; television; screen"}
OBJECT_WORDS = {"background": BACKGROUND, "person": f"{PERSON}; body"}

EVERYWHERE = {"short_side": 336, "crop": 224, "stride": 112, "multiple": 1, "logit_scale": 40.0}
VOC20 = {"prompts": VOC_WORDS}
VOC21 = {"prompts": VOC_WORDS, "threshold": 0.1}
CONTEXT60 = {"threshold": 0.1}
COCO_OBJECT = {"prompts": OBJECT_WORDS, "threshold": 0.1}
CITYSCAPES = {"short_side": 560}
WHOLE_IMAGE = {"crop": 0, "two_steps": True}  # NACLIP and its successors on VOC
