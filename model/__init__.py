"""STMixer, the detector: pure tensors in, tensors out.

Knows no video file, no server and no training. ``config``, ``zoo``, ``labels`` and ``clip`` import no torch, so the API
process can describe a model without loading one.
"""
