"""The mixing of orientations: the sum that an einsum writes, in C and without, differentiable at will."""

import pytest
import torch
from jaxtyping import TypeCheckError
from torch.autograd import gradcheck, gradgradcheck

from geomol.native.library import SWITCH, find_compiler
from geomol.ops import mix_orientations, mixing_cpu
from geomol.ops.constant import constant_weights

SIZES = [(9, 12, 12, 64), (1, 3, 3, 16), (13, 6, 5, 37), (70, 4, 3, 3), (0, 4, 4, 8)]  # N, O, P, C


@pytest.fixture(params=["c", "blocks"])
def way(request, monkeypatch):
    if request.param == "c":
        if find_compiler() is None:
            pytest.skip("no C compiler")
    else:
        monkeypatch.setenv(SWITCH, "0")
        monkeypatch.setattr(mixing_cpu, "BLOCK", 4)
    return request.param


def some(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(("n", "o", "p", "c"), SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_values_are_those_of_einsum(way, n, o, p, c, dtype, tolerance):
    x, kernel, y = some(n, o, c, dtype=dtype), some(p, o, c, dtype=dtype), some(n, p, c, dtype=dtype)
    close = {"rtol": tolerance, "atol": 10 * tolerance}
    torch.testing.assert_close(mix_orientations(x, kernel), torch.einsum("noc,poc->npc", x, kernel), **close)
    products = torch.ops.geomol.orientation_products(y, x)
    torch.testing.assert_close(products, torch.einsum("npc,noc->poc", y, x), **close)


def test_strided_inputs_are_read_as_they_are_meant(way):
    x, kernel = some(5, 6, 4).permute(2, 1, 0), some(6, 6, 5).transpose(0, 1)
    torch.testing.assert_close(mix_orientations(x, kernel), torch.einsum("noc,poc->npc", x, kernel))


def test_derivatives_of_both_operators(way):
    x, kernel, y = (t.requires_grad_() for t in (some(5, 3, 2), some(4, 3, 2), some(5, 4, 2)))
    for operator, args in ((mix_orientations, (x, kernel)), (torch.ops.geomol.orientation_products, (y, x))):
        assert gradcheck(operator, args)
        assert gradgradcheck(operator, args)


def test_operators_are_registered_as_pytorch_wants_them():
    x, kernel = some(5, 3, 2).requires_grad_(), some(4, 3, 2).requires_grad_()
    torch.library.opcheck(torch.ops.geomol.mix_orientations.default, (x, kernel))
    torch.library.opcheck(torch.ops.geomol.orientation_products.default, (some(5, 4, 2).requires_grad_(), x))


def test_where_weights_are_constant_there_is_no_derivative_by_them():
    x, kernel = some(5, 3, 2).requires_grad_(), some(4, 3, 2).requires_grad_()
    with constant_weights():
        out = mix_orientations(x, kernel).sum()
    by_x, by_kernel = torch.autograd.grad(out, (x, kernel), allow_unused=True)
    assert by_x is not None
    assert by_kernel is None


def test_numbers_of_two_kinds_meet_in_the_wider(way):
    """As under autocast, where a kernel may be in half precision."""
    x, kernel = some(5, 3, 16), some(4, 3, 16)
    expected = torch.einsum("noc,poc->npc", x, kernel)
    for a, b in ((x.float(), kernel), (x, kernel.float()), (x.float(), kernel.bfloat16())):
        tolerance = 0.05 if b.dtype == torch.bfloat16 else 1e-5
        found = mix_orientations(a, b)
        assert found.dtype == torch.promote_types(a.dtype, b.dtype)
        torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(4, 3, 15), (4, 2, 16), (4, 3, 17)])
def test_a_kernel_of_other_features_is_refused(shape):
    with pytest.raises((ValueError, TypeCheckError)):  # the latter where shapes are checked at run time, as here
        mix_orientations(some(5, 3, 16), some(*shape))


def test_half_precision_goes_the_plain_way():
    x, kernel = some(5, 3, 16, dtype=torch.bfloat16), some(4, 3, 16, dtype=torch.bfloat16)
    expected = torch.einsum("noc,poc->npc", x.float(), kernel.float())
    torch.testing.assert_close(mix_orientations(x, kernel).float(), expected, rtol=0.05, atol=0.05)
