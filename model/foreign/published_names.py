"""The published STMixer layout: our names of tensors to its own.

CSN-152 and ViT-L were never published: their backbones take the names of their public pre-training (IG-65M, VideoMAE),
so that every variant has one layout. What the released code lacks (ablations, the long-term classifier) keeps ours.
"""

from __future__ import annotations

import re

# ours -> published, applied in order to every name of a detector's state dict
_RULES: tuple[tuple[str, str], ...] = (
    (r"^feature_space\.lateral\.", "lateral_convs."),
    (r"^decoder\.(spatial|temporal)_queries$", r"stm_head.init_\1_queries.weight"),
    (r"^decoder\.stages\.", "stm_head.decoder_stages."),
    (r"\.point_generator\.offsets\.", ".samplingmixing.offset_generator.0."),
    (r"\.human_head\.3\.", ".human_fc_cls."),
    (r"\.human_head\.", ".human_cls_fcs."),
    (r"\.box_head\.3\.", ".fc_reg."),
    (r"\.box_head\.", ".reg_fcs."),
    (r"\.action_head\.3\.", ".fc_action."),
    (r"\.action_head\.", ".action_cls_fcs."),
    (r"\.spatial\.", ".s."),
    (r"\.temporal\.", ".t."),
    (r"\.([st])\.attention\.norm\.", r".attention_norm_\1."),
    (r"\.([st])\.attention\.qkv\.", r".attention_\1.attn.in_proj_"),
    (r"\.([st])\.attention\.out_proj\.", r".attention_\1.attn.out_proj."),
    (r"\.([st])\.mixing\.generator\.", r".samplingmixing.adaptive_mixing_\1.parameter_generator.0."),
    (r"\.([st])\.mixing\.out_proj\.", r".samplingmixing.adaptive_mixing_\1.out_proj."),
    (r"\.([st])\.mixing_norm\.", r".samplingmixing.norm_\1."),
    (r"\.([st])\.ffn\.0\.", r".ffn_\1.layers.0.0."),
    (r"\.([st])\.ffn\.2\.", r".ffn_\1.layers.1."),
    (r"\.([st])\.ffn_norm\.", r".ffn_norm_\1."),
)

_RESNET: tuple[tuple[str, str], ...] = (
    (r"^slow\.", "pathway0."),
    (r"^fast\.", "pathway1."),
    (r"^(pathway\d)\.stem\.", r"s1.\1_stem.conv."),
    (r"^(pathway\d)\.stem_norm\.", r"s1.\1_stem.bn."),
    (r"\.conv_([abc])\.", r".branch2.\1."),
    (r"\.norm_([abc])\.", r".branch2.\1_bn."),
    (r"\.shortcut\.", ".branch1."),
    (r"\.shortcut_norm\.", ".branch1_bn."),
)

_NONLOCAL: tuple[tuple[str, str], ...] = ((r"^(theta|phi|g|out)\.", r"conv_\1."), (r"^norm\.", "bn."))

_CSN: tuple[tuple[str, str], ...] = (
    (r"^stem\.", "conv1."),
    (r"^stem_norm\.", "bn1."),
    (r"\.conv_a\.", ".conv1."),
    (r"\.norm_a\.", ".bn1."),
    (r"\.conv_b\.", ".conv3."),
    (r"\.norm_b\.", ".bn3."),
    (r"\.conv_c\.", ".conv4."),
    (r"\.norm_c\.", ".bn4."),
    (r"\.shortcut\.", ".down_sample.0."),
    (r"\.shortcut_norm\.", ".down_sample.1."),
)

_VIT: tuple[tuple[str, str], ...] = (
    (r"^patches\.", "patch_embed.proj."),
    (r"\.attention_norm\.", ".norm1."),
    (r"\.mlp_norm\.", ".norm2."),
    (r"\.attention\.qkv\.([qv]_bias)$", r".attn.\1"),
    (r"\.attention\.", ".attn."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.2\.", ".mlp.fc2."),
)


def published_name(name: str) -> str:
    """The published name of one of our tensors."""
    head, dot, rest = name.partition(".")
    if head == "backbone":
        return head + dot + published_backbone_name(rest)
    return _rewritten(name, _RULES)


def published_backbone_name(name: str) -> str:
    """The same within a backbone; also the name in its public pre-training, but for caffe2's."""
    if name.startswith(("stem", "stages.")):
        if match := re.match(r"stages\.(\d)\.(.*)", name):
            name = f"layer{int(match[1]) + 1}.{match[2]}"
        return _rewritten(name, _CSN)
    if name.startswith(("patches.", "blocks.", "norm.")):
        return _rewritten(name, _VIT)
    if match := re.match(r"(slow|fast)\.stages\.(\d)\.(nonlocal)?(\d+)\.(.*)", name):
        pathway, stage, nonlocal_, block, rest = match.groups()
        place = f"s{int(stage) + 2}.pathway{('slow', 'fast').index(pathway)}"
        if nonlocal_:
            return f"{place}_nonlocal{block}." + _rewritten(rest, _NONLOCAL)
        name = f"{place}_res{block}.{rest}"
    if match := re.match(r"fusions\.(\d)\.(conv|norm)\.(.*)", name):
        index, part, rest = match.groups()
        name = f"s{int(index) + 1}_fuse.{ {'conv': 'conv_f2s', 'norm': 'bn'}[part] }.{rest}"
    return _rewritten(name, _RESNET)


def _rewritten(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
