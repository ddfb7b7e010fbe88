"""The command line for samples that agree with something: labels, parts of images, columns of a table."""

import json

import numpy as np
import pytest
from PIL import Image
from test_cli import TINY, called

SMALL = [option for setting in [*TINY, "stages=2"] for option in ("--set", setting)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("condition")
    for out, option in (("by-class", ["--by-class"]), ("left", ["--observe", "left-half"])):
        done = called("train", "digits", "--preset", "networks", *option, "--out", out, *SMALL, cwd=path)
        assert done.returncode == 0, done.stderr
    return path


def test_samples_of_a_label(folder):
    done = called("sample", "by-class", "--label", 7, "-n", 5, "--out", "seven.npz", cwd=folder)
    assert done.returncode == 0 and np.load(folder / "seven.npz")["x"].shape == (5, 1, 8, 8)
    assert called("sample", "by-class", "-n", 5, "--out", "any.npz", cwd=folder).returncode == 0
    assert "condition: class" in called("info", "by-class", cwd=folder).stdout
    # a row of 8 for each of ten labels, of 8 pixels and a gap of 1
    grid = Image.open(folder / "by-class/images/samples-0002.png")
    assert grid.size[1] * 73 == grid.size[0] * 91
    assert "A row for each label: 0, 1, 2" in (folder / "by-class/report.html").read_text()


@pytest.mark.slow
def test_evaluation_by_label(folder):
    done = called("evaluate", "by-class", "-n", 100, cwd=folder)
    assert done.returncode == 0 and "label_accuracy" in done.stdout and "label 7: Fréchet distance" in done.stdout
    scores = json.loads((folder / "by-class/evaluation.json").read_text())
    accuracy = scores["scores"]["label_accuracy"]
    assert 0 <= accuracy["generated"] <= 1 and accuracy["training_data"] == scores["classifier_accuracy"] > 0.9
    assert set(scores["frechet_by_label"]) <= {str(k) for k in range(10)}


@pytest.mark.slow
def test_complete_images(folder):
    done = called("sample", "left", "--observed", "held-out", "-n", 4, "--out", "known.npy", cwd=folder)
    assert done.returncode == 0
    first = np.load(folder / "known.npy")
    again = called("sample", "left", "--observed", "known.npy", "-n", 4, "--out", "again.npy", cwd=folder)
    assert again.returncode == 0 and np.array_equal(first, np.load(folder / "again.npy"))  # of the same halves and seed
    done = called("evaluate", "left", "-n", 100, cwd=folder)
    assert done.returncode == 0 and "deviation of samples from their condition: 0" in done.stdout
    assert json.loads((folder / "left/evaluation.json").read_text())["observation_residual"] == 0
    assert "Above each row, the known part of these samples" in (folder / "left/report.html").read_text()


def test_condition_on_columns(folder):
    pytest.importorskip("pyarrow")
    g = np.random.default_rng(0)
    rows = g.normal(size=(200, 3)) + np.array([40, 0, 5])
    np.savetxt(folder / "people.csv", rows, delimiter=",", header="age,height,income", comments="")
    done = called("train", "people.csv", "--condition", "age,income", "--out", "people", *SMALL, cwd=folder)
    assert done.returncode == 0, done.stderr
    done = called("sample", "people", "--given", "age=40,income=5", "-n", 6, "--out", "some.csv", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert [line[:3] for line in (folder / "some.csv").read_text().splitlines()] == ["age", *["40."] * 6]
    assert called("evaluate", "people", "-n", 20, cwd=folder).returncode == 0
    done = called("sample", "people", "--given", "age=90,income=5", "-n", 6, "--out", "far.csv", cwd=folder)
    assert done.returncode == 0 and "age lies" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "digits", "--by-class", "--observe", "left-half"], "only one of --by-class and --observe can be used"),
        (
            ["train", "digits", "--observe", "left"],
            "--observe must be one of left-half, right-half, top-half, bottom-half or pool:4, got 'left'",
        ),
        (["train", "digits", "--observe", "pool:3"], "does not fit images of shape"),
        (["train", "digits", "--condition", "age"], "it needs numbers next to the data, and digits has none"),
        (["sample", "by-class", "--label", 10], "must be a label of the training data, 0 to 9, got 10"),
        (["sample", "left", "--label", 1], "--label does not fit left, which takes --observed (its condition is 'left-half')"),
        (["sample", "by-class", "--observed", "held-out"], "which takes --label (its condition is 'class')"),
        (["sample", "by-class", "--given", "1"], "--given does not fit by-class, which takes --label"),
        (["sample", "left"], "must be the known part of images"),
        (
            ["sample", "left", "--observed", "nowhere.npy"],
            "--observed must be an existing .npy or .npz file, or held-out, got nowhere.npy",
        ),
        (["sample", "left", "--observed", "by-class/config.yaml"], "existing .npy or .npz file"),
    ],
)
def test_invalid_conditions_end_in_one_line(folder, arguments, words):
    where = ["--out", "new"] if arguments[0] == "train" else []
    done = called(*arguments, *where, cwd=folder)
    assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1
    assert not (folder / "new").exists()
