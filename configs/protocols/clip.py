"""CLIP as SCLIP's authors evaluated it (arXiv:2312.01597, main table): under the protocol of SCLIP."""

from configs.protocols import sclip

protocol = sclip.protocol
