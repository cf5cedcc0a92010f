"""PEARL (arXiv:2603.21528): the protocol of NACLIP with another refinement."""

from configs.protocols import naclip
from configs.published_protocol import PublishedProtocol

protocol = PublishedProtocol(
    source="PGSmall/PEARL c26062b: configs",
    everywhere={**naclip.protocol.everywhere, "refine": "tlp"},
    benchmarks={
        **naclip.protocol.benchmarks,
        "cityscapes": {**naclip.protocol.benchmarks["cityscapes"], "alpha": 0.3},
        "ade20k": {"alpha": 0.3},
    },
)
