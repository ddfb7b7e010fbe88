"""Models published and fetched, by huggingface_hub; and TensorBoard's files. Nothing here asks a network."""

import json
from pathlib import Path

import pytest
import torch
from problems import generator

import rieszflow as rf
from rieszflow import report
from rieszflow.errors import RunError

SETTINGS = {
    "networks": {"networks": 2, "fit_steps": 20, "width": 16},
    "recorded": {"model": "recorded", "networks": 2, "bins": 16},
}


def trained(model, draw=None, images=False):
    x = torch.rand(120, *((1, 4, 4) if images else (2,)), generator=generator(0))
    more = {"network": "mlp"} if images and model == "networks" else {}
    settings = {"particles": 100, "first_steps": 4, "slices": 8, **SETTINGS[model], **more}
    return rf.GenerativeFlow(**settings).fit(x, draw=draw)


@pytest.mark.parametrize("model", SETTINGS)
def test_a_published_model_samples_the_same(model, tmp_path, monkeypatch):
    flow = trained(model)
    flow.save_pretrained(tmp_path / "model")
    files = {p.relative_to(tmp_path / "model").as_posix() for p in (tmp_path / "model").rglob("*") if p.is_file()}
    assert {"config.yaml", "README.md", "metrics.jsonl", "networks/0001.safetensors"} <= files
    assert not any("state" in name for name in files)
    again = rf.GenerativeFlow.from_pretrained(tmp_path / "model")
    assert torch.equal(again.sample(20, seed=1), flow.sample(20, seed=1)) and again.config == flow.config
    again.save_pretrained(tmp_path / "copy")
    copied = rf.GenerativeFlow.from_pretrained(str(tmp_path / "copy"))
    assert torch.equal(copied.sample(20, seed=1), flow.sample(20, seed=1))
    # From the hub: what is fetched is a folder of links to files.
    (tmp_path / "snapshot").mkdir()
    for name in files:
        (tmp_path / "snapshot" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "snapshot" / name).symlink_to(tmp_path / "model" / name)
    asked = []
    monkeypatch.setattr(
        "rieszflow.generative.hub.snapshot_download", lambda n, **o: asked.append((n, o)) or tmp_path / "snapshot"
    )
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", lambda **o: str(tmp_path / "model" / "config.json"))
    fetched = rf.GenerativeFlow.from_pretrained("owner/name", revision="v1", local_files_only=True)
    assert torch.equal(fetched.sample(20, seed=1), flow.sample(20, seed=1))
    assert asked[0][0] == "owner/name" and asked[0][1]["revision"] == "v1" and asked[0][1]["local_files_only"]


def test_the_card_has_picture_and_figures(tmp_path):
    flow = trained("recorded", draw=report.draw, images=True)
    scores = {"energy_distance_U": {"generated": 0.01234, "training_data": -0.001}}
    content = {"samples": 50, "held_out": 60, "feature_space": "the pixels", "scores": scores}
    (flow.run.path / "evaluation.json").write_text(json.dumps(content))
    flow.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    for text in (
        "library_name: rieszflow",
        "pipeline_tag: unconditional-image-generation",
        "![from noise to data](images/way.png)",
        "| energy distance U | 0.01234 | -0.001 |",
        "50 samples against 60 held-out data",
        "(16, 1, 4, 4)",
        "102 training data",
    ):
        assert text in card, card
    assert (tmp_path / "images" / "way.png").stat().st_size > 100


def test_what_is_pushed(monkeypatch):
    flow, seen = trained("recorded"), {}

    class Api:
        def __init__(self, **options):
            pass

        def create_repo(self, repo_id, **options):
            return type("Repository", (), {"repo_id": repo_id})()

        def upload_folder(self, *, repo_id, folder_path, **options):
            seen[repo_id] = {p.name: p.read_bytes() for p in Path(folder_path).rglob("*") if p.is_file()}
            return "done"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    assert flow.push_to_hub("owner/digits", private=True) == "done"
    assert 'from_pretrained("owner/digits")' in seen["owner/digits"]["README.md"].decode()
    assert {"config.yaml", "0001.safetensors", "0002.safetensors"} <= set(seen["owner/digits"])


def test_what_is_refused(tmp_path):
    with pytest.raises(RunError, match="nothing to publish: call fit first"):
        rf.GenerativeFlow().save_pretrained(tmp_path / "model")
    with pytest.raises(RunError, match="no run of rieszflow"):
        rf.GenerativeFlow.from_pretrained(tmp_path)


@pytest.mark.filterwarnings("ignore")  # TensorBoard's own, of NumPy
def test_tensorboard_has_curves_and_pictures():
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def draw(run, pictures):
        report.draw(run, pictures)
        report.to_tensorboard(run, pictures)

    flow = trained("networks", draw=draw, images=True)
    board = EventAccumulator(str(flow.run.path / "tensorboard"), size_guidance={"images": 0})
    board.Reload()
    rows = flow.run.metrics()
    for name, values in (
        ("energy_distance/fresh_samples", [row["energy_distance"]["fresh_samples"] for row in rows]),
        ("fit_error", [row["fit_error"] for row in rows]),
    ):
        found = board.Scalars(name)
        assert [e.step for e in found] == [row["flow_steps_total"] for row in rows]
        assert [e.value for e in found] == pytest.approx(values, rel=1e-6)  # kept in float32
    assert [len(board.Images(name)) for name in ("particles", "samples")] == [2, 2]
