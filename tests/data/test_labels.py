"""Annotated data: matrices of all kinds, and .h5ad files with links to other files or false sizes."""

import numpy as np
import pytest

import rieszflow as rf
from rieszflow.errors import DatasetError, InputError, InputTypeError

ad = pytest.importorskip("anndata")
import h5py  # noqa: E402  (comes with anndata)
import pandas  # noqa: E402
import scipy.sparse  # noqa: E402

X = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
KIND = np.array(["a", "b", "c"] * 40)


def cells(**parts):
    index = pandas.Index([str(k) for k in range(120)], name="cell_id")
    found = ad.AnnData(**{"X": X, **parts}, obs=pandas.DataFrame({"kind": KIND}, index=index))
    found.layers["exp"] = np.exp(X)
    found.obsm["frame"] = pandas.DataFrame(X[:, :2], index=index, columns=["u", "v"])
    return found


def distances(*args, **options):
    return rf.pairwise_energy_distance(*args, permutations=0, slices=8, **options).distances


@pytest.mark.filterwarnings("error::rieszflow.Notice")  # the index of a frame in obsm names the cells, by definition
def test_views_layers_and_open_files(tmp_path):
    whole, some = cells(), KIND != "c"
    whole.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    for options, x in (({}, X), ({"layer": "exp"}, np.exp(X)), ({"obsm": "frame"}, X[:, :2])):
        for given, chosen in ((whole, slice(None)), (whole[some], some), (backed, slice(None)), (backed[some], some)):
            want = distances(x[chosen], KIND[chosen])
            np.testing.assert_array_equal(distances(given, "kind", **options), want)
        np.testing.assert_array_equal(distances(tmp_path / "cells.h5ad", "kind", **options), distances(x, KIND))


def test_data_without_dense_points_are_refused(tmp_path):
    whole, sparse = cells(), cells(X=scipy.sparse.csr_matrix(X))
    whole.layers["sparse"] = scipy.sparse.csr_matrix(X)
    sparse.write_h5ad(tmp_path / "sparse.h5ad")
    for given, options, error, says in (
        (sparse, {}, InputTypeError, "`x` must have dense points, got a sparse X"),
        (sparse[:60], {}, InputTypeError, "`x` must have dense points, got a sparse X"),
        (ad.read_h5ad(tmp_path / "sparse.h5ad", backed="r"), {}, InputTypeError, "`x` must have dense points, got a sparse X"),
        (whole, {"layer": "sparse"}, InputTypeError, r"got a sparse layers\['sparse'\]"),
        (ad.AnnData(obs=whole.obs), {}, InputError, "`x` must hold points, got annotated data without X"),
        (whole, {"layer": "raw"}, InputError, r"`layer` must be a key of the data \('exp', 'sparse'\), got 'raw'"),
        (whole, {"layer": "exp", "obsm": "frame"}, InputError, "`layer` must be None with obsm='frame', got 'exp'"),
    ):
        with pytest.raises(error, match=says):
            distances(given, "kind", **options)
    with pytest.raises(InputError, match="`layer` must be None unless x is annotated data, got 'exp'"):
        distances(X, KIND, layer="exp")
    whole.obs["kind"] = whole.obs["kind"].where(KIND != "c")
    with pytest.raises(InputError, match="got 40 of 120 missing"):
        distances(whole, "kind")


def external_link(file):
    file["X"] = h5py.ExternalLink("other.h5ad", "/X")


def link_to_an_external_link(file):
    file["uns/other"] = h5py.ExternalLink("other.h5ad", "/")
    file["X"] = h5py.SoftLink("/uns/other/X")


def external_storage(file):
    file.create_dataset("X", X.shape, "f4", external=[("other.h5ad", 0, X.nbytes)])


def virtual(file):
    layout = h5py.VirtualLayout(X.shape, "f4")
    layout[:] = h5py.VirtualSource("other.h5ad", "X", X.shape)
    file.create_virtual_dataset("X", layout)


def never_stored(file):
    file.create_dataset("X", (120, 10**7), "f4", chunks=(120, 10**4))


def no_harm(file):
    file["uns/soft"] = h5py.SoftLink("/obs/kind")
    file["uns/again"] = file["var"]
    file["X"] = X
    file["uns/null"] = h5py.Empty("f4")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (external_link, "'/X' must be stored in the file itself, got a link to another file"),
        (link_to_an_external_link, "'/uns/other' must be stored in the file itself, got a link to another file"),
        (external_storage, "'/X' must be stored in the file itself, got a data set whose values lie in another file"),
        (virtual, "'/X' must be stored in the file itself, got a data set whose values lie in another file"),
        (never_stored, "'/X' must be stored in the file itself, got 4800000000 bytes of values, stored in 0"),
        (no_harm, None),
    ],
)
def test_a_file_reads_no_other_file(tmp_path, monkeypatch, change, says):
    monkeypatch.chdir(tmp_path)
    for name in ("cells.h5ad", "other.h5ad"):
        cells().write_h5ad(name)
    with h5py.File("cells.h5ad", "r+") as file:
        del file["X"]
        change(file)
    if says is None:
        np.testing.assert_array_equal(distances("cells.h5ad", "kind"), distances(X, KIND))
    else:
        with pytest.raises(DatasetError, match=f"cells.h5ad: {says}"):
            distances("cells.h5ad", "kind")
