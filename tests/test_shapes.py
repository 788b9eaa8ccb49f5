"""The tests run with array shapes checked, and the checker can tell right from wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from jaxtyping import Float, TypeCheckError, jaxtyped
from shape_checker import check_shapes
from torch import Tensor

from geomol.data.labels import matrix_to_voigt
from geomol.ops import segment_sum


def test_the_package_refuses_an_array_of_another_shape_under_test():
    assert matrix_to_voigt(np.eye(3)).shape == (6,)
    with pytest.raises(TypeCheckError, match="3 3"):
        matrix_to_voigt(np.eye(2))


def test_the_package_refuses_integers_where_floats_are_meant_under_test():
    with pytest.raises(TypeCheckError, match="values"):
        segment_sum(torch.ones(3, dtype=torch.int64), torch.tensor([0, 3]))


@jaxtyped(typechecker=check_shapes)
def dot(x: Float[Tensor, "N 3"], y: Float[Tensor, "N 3"] | None = None, name: str = "") -> Float[Tensor, " N"]:
    return (x * (x if y is None else y)).sum(dim=0 if name == "wrong axis" else 1)


def test_the_checker_accepts_what_fits_and_leaves_plain_types_alone():
    x = torch.ones(4, 3)
    assert dot(x).tolist() == [3.0] * 4
    assert dot(x, x, name=5).tolist() == [3.0] * 4


@pytest.mark.parametrize("bad", [torch.ones(4, 2), torch.ones(5, 3), torch.ones(4, 3, dtype=torch.int64), "text"])
def test_the_checker_rejects_a_second_array_that_does_not_match_the_first(bad):
    with pytest.raises(TypeCheckError, match="parameter 'y'"):
        dot(torch.ones(4, 3), bad)


def test_the_checker_rejects_a_result_of_the_wrong_length():
    with pytest.raises(TypeCheckError, match="return value"):
        dot(torch.ones(4, 3), name="wrong axis")
