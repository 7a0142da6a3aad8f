"""Half precision where the CPU has none: the products that hardware would give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stmixer.model.classifiers import Head
from stmixer.model.mixing import AdaptiveMixing
from stmixer.model.runtimes import eager
from stmixer.model.runtimes.precision import WideProducts
from stmixer.model.runtimes.prepare import prepared
from stmixer.model.sampling import PointGenerator
from stmixer.model.stage import SelfAttention
from stmixer.model.zoo import variant


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


PRODUCTS: list[Callable[[], Tensor]] = [
    lambda: F.linear(draw(2, 5, 70), draw(9, 70), draw(9)),
    lambda: draw(3, 6, 40) @ draw(3, 40, 7),
    lambda: F.conv2d(draw(2, 8, 9, 9), draw(4, 8, 3, 3), draw(4), padding=1),
]


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_product_is_rounded_once(product: Callable[[], Tensor]) -> None:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), WideProducts():
        rounded = product()
    exact = product()
    assert rounded.dtype == torch.bfloat16
    assert not torch.equal(rounded.float(), exact)
    # inputs of 8 significant bits, the output rounded to 8
    assert (rounded.float() - exact).abs().max() < 2**-7 * exact.abs().max()


def test_single_precision_is_left_alone() -> None:
    with WideProducts():
        given = [product() for product in PRODUCTS]
    assert all(torch.equal(a, product()) for a, product in zip(given, PRODUCTS, strict=True))


def test_heads_points_and_attention_stay_in_float32(filled) -> None:
    detector = filled(variant("tiny"))
    full, half = (prepared(detector, precision, pack=False) for precision in ("fp32", "bf16"))
    for name, module in half.decoder.named_modules():
        if isinstance(module, Head):
            x = draw(2, 9, module.last.in_features)
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                assert torch.equal(module(x), full.decoder.get_submodule(name)(x))
    for module in half.decoder.modules():
        wide = isinstance(module, (Head, PointGenerator, SelfAttention))
        if wide or isinstance(module, AdaptiveMixing):
            expected = torch.float32 if wide else torch.bfloat16
            assert {m.weight.dtype for m in module.modules() if isinstance(m, nn.Linear)} == {expected}


@pytest.fixture
def tf32() -> Iterator[None]:
    """What cuDNN does by itself, and matrix products where the environment asks for it."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.usefixtures("tf32")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_float32_on_a_gpu_is_float32(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "prepared", lambda detector, precision: detector)
    detector = SimpleNamespace(to=lambda device: None)
    eager.EagerRuntime(SimpleNamespace(detector=detector, card=None), torch.device("cuda"), precision)  # type: ignore[arg-type]
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (False, False)
