"""Points in every form: the same numbers in other memory are taken, and what is more than its numbers is refused."""

import numpy as np
import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from problems import generator
from torch._subclasses.fake_tensor import FakeTensorMode

import rieszflow as rf
from rieszflow._infra import validate

GOOD = torch.rand(4, 3)
FUNCTIONS = [rf.mmd2, rf.energy_distance, rf.mmd2_gradient, rf.sliced_mmd2, rf.sliced_mmd2_gradient]


class Quantity(np.ndarray):
    """Numbers with a unit, as some packages have them."""


class Image(torch.Tensor):
    """A subclass without ways of its own."""


ARRAY = GOOD.numpy()
REFUSED = {
    "masked array": (lambda: np.ma.masked_array(ARRAY, mask=ARRAY > 0.5), "got a masked array"),
    "masked array without a mask": (lambda: np.ma.masked_array(ARRAY), "got a masked array"),
    "array with a unit": (lambda: ARRAY.view(Quantity), "got Quantity"),
    "objects": (lambda: ARRAY.astype(object), "dtype object"),
    "strings": (lambda: ARRAY.astype(str), "dtype <U"),
    "bytes": (lambda: ARRAY.astype("S8"), "dtype |S8"),
    "dates": (lambda: np.zeros((4, 3), "datetime64[s]"), "dtype datetime64"),
    "durations": (lambda: np.zeros((4, 3), "timedelta64[s]"), "dtype timedelta64"),
    "structured": (lambda: np.zeros((4, 3), [("a", np.float32)]), "dtype "),
    "complex": (lambda: ARRAY.astype(complex), "dtype complex128"),
    "half": (lambda: ARRAY.astype(np.float16), "dtype float16"),
    "long double": (lambda: ARRAY.astype(np.longdouble), "dtype "),
    "booleans": (lambda: ARRAY > 0.5, "dtype bool"),
    "a number": (lambda: np.float32(1), "got float32"),
    "no dimension": (lambda: np.array(1.0, np.float32), r"got \(\)"),
    "tuple": (lambda: ((1.0, 2.0),), "got tuple.*numpy.asarray"),
    "sparse": (lambda: GOOD.to_sparse(), "layout torch.sparse_coo.*to_dense"),
    "compressed": (lambda: GOOD.to_sparse_csr(), "layout torch.sparse_csr.*to_dense"),
    "mkldnn": (lambda: GOOD.to_mkldnn(), "layout torch._mkldnn.*to_dense"),
    "meta": (lambda: GOOD.to("meta"), "meta device"),
    "quantized": (lambda: torch.quantize_per_tensor(GOOD, 0.1, 0, torch.qint8), "dtype torch.qint8"),
    "complex tensor": (lambda: GOOD + 0j, "dtype torch.complex64"),
    "bfloat16": (lambda: GOOD.bfloat16(), "dtype torch.bfloat16"),
    "nested": (lambda: torch.nested.nested_tensor([GOOD, GOOD[:2]], layout=torch.strided), "got a nested tensor"),
    "jagged": (lambda: torch.nested.nested_tensor([GOOD, GOOD[:2]], layout=torch.jagged), "got NestedTensor"),
    "masked tensor": (lambda: torch.masked.masked_tensor(GOOD, GOOD > 0.5), "got MaskedTensor"),
    "fake": (lambda: FakeTensorMode().from_tensor(GOOD), "got FakeTensor"),
    "without values": (lambda: torch.nn.UninitializedParameter(), "UninitializedParameter without values"),
}


@pytest.mark.filterwarnings("ignore:.*(PyTorch API of|torch.quantize|quantiz|Sparse CSR)")
@pytest.mark.parametrize("kind", REFUSED)
def test_points_that_are_more_than_their_values_are_refused(kind):
    make, says = REFUSED[kind]
    bad = make()
    for function in FUNCTIONS:
        with pytest.raises((TypeError, ValueError), match=f"^`x` must .*{says}"):
            function(bad, GOOD)
        with pytest.raises((TypeError, ValueError), match=f"^`y` must .*{says}"):
            function(GOOD, bad)
    if kind != "no dimension":
        with pytest.raises(TypeError, match=f"^`x_weights` must .*{says}"):
            rf.mmd2(GOOD, GOOD, x_weights=bad)
    with pytest.raises((TypeError, ValueError), match=f"^`x` must .*{says}"):
        rf.Target(GOOD, slices=4).gradient(bad)
    with pytest.raises((TypeError, ValueError), match=f"^`x` must .*{says}"):
        rf.ParticleFlow(GOOD, slices=4).run(bad, steps=1)


def test_weights_that_are_one_number():
    with pytest.raises(ValueError, match=r"^`x_weights` must .* got shape \(\)"):
        rf.mmd2(GOOD, GOOD, x_weights=np.array(1.0, np.float32))


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_the_same_numbers_in_other_memory(function):
    """Whatever the memory looks like, the answer is that of a plain copy."""
    wide = torch.rand(8, 6, generator=generator(1))
    part = wide[::2, ::2]
    complex_part = torch.complex(wide[:4, :3], -part).conj().imag  # a view with its sign to be turned
    assert complex_part.is_neg()
    views = {
        "strided": part,
        "transposed": part.T.contiguous().T,
        "expanded": part[:1].expand(4, 3),
        "negative": torch._neg_view(part),
        "conjugate's imaginary part": complex_part,
        "subclass": part.as_subclass(Image),
        "parameter": torch.nn.Parameter(part.clone()),
        "made in inference mode": torch.inference_mode()(lambda: part.clone())(),
        "reversed": part.numpy()[::-1],
        "big endian": part.numpy().astype(">f4"),
        "Fortran": np.asfortranarray(part.numpy()),
        "matrix": np.matrix(part.numpy()),
    }
    read_only = part.numpy().copy()
    read_only.flags.writeable = False
    views["read only"] = read_only
    extra = {"slices": 7} if function in (rf.sliced_mmd2, rf.sliced_mmd2_gradient) else {}
    for name, view in views.items():
        copy = torch.tensor(view.tolist() if isinstance(view, np.ndarray) else view.detach().resolve_neg().tolist())
        g = [{"seed": generator(2)} if extra else {} for _ in range(2)]
        got, wanted = function(view, GOOD, **extra, **g[0]), function(copy, GOOD, **extra, **g[1])
        # products of other strides add up in another order
        torch.testing.assert_close(got.detach(), wanted, rtol=1e-5, atol=1e-7, msg=name)


def test_sums_that_overflow_are_sums_of_finite_numbers():
    """The sum of these is infinity, or infinity less infinity."""
    for dtype in (torch.float32, torch.float64):
        large = torch.full((40, 2), torch.finfo(dtype).max, dtype=dtype)
        for x in (large, -large, torch.cat([large, -large])):
            assert validate.points("x", x) is x


def test_transforms_and_forward_derivatives_are_refused():
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.vmap):
        with pytest.raises(TypeError, match="^`x` must .* got a tensor inside of torch.func"):
            transform(lambda z: rf.mmd2(z, GOOD))(GOOD[None] if transform is torch.func.vmap else GOOD)
    with pytest.raises(TypeError, match="^`x` must .* got a tensor inside of torch.func"):
        torch.func.jvp(lambda z: rf.sliced_mmd2(z, GOOD, slices=4), (GOOD,), (GOOD,))
    for function in FUNCTIONS:
        with (
            forward_ad.dual_level(),
            pytest.raises(TypeError, match="^`x` must .* got a tensor with a forward-mode derivative"),
        ):
            function(forward_ad.make_dual(GOOD, GOOD), GOOD)
