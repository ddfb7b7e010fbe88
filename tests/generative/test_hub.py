"""Models published and fetched, by huggingface_hub; and TensorBoard's files. Nothing here asks a network."""

import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from problems import generator

import rieszflow as rf
from rieszflow import report
from rieszflow._infra.messages import Notice
from rieszflow.errors import ConfigError, FileError, InputTypeError, RunError

SETTINGS = {
    "networks": {"stages": 2, "fit_steps": 20, "width": 16},
    "recorded": {"model": "recorded", "stages": 2, "bins": 16},
}


def trained(model, draw=None, images=False):
    x = torch.rand(120, *((1, 4, 4) if images else (2,)), generator=generator(0))
    more = {"network": "mlp"} if images and model == "networks" else {}
    settings = {"particles": 100, "initial_steps": 4, "slices": 8, **SETTINGS[model], **more}
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
    assert "networks/*.safetensors" in asked[0][1]["allow_patterns"] and "*" not in asked[0][1]["allow_patterns"]


def test_the_card_has_picture_and_figures(tmp_path):
    flow = trained("recorded", draw=report.draw, images=True)
    scores = {"energy_distance_U": {"generated": 0.01234, "training_data": -0.001}}
    content = {"samples": 50, "held_out": 60, "feature_space": "the pixels", "scores": scores}
    flow.run.write_evaluation(content)
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


CONDITIONS = {
    "class": {"condition": torch.arange(120) % 3 + 4},
    "numbers": {"condition": torch.rand(120, 2, generator=generator(5)) * 1e-3 + 1000},
    "part": {"condition": "left-half"},
}


@pytest.mark.parametrize("kind", [None, *CONDITIONS])
def test_the_example_on_the_card_runs(kind, tmp_path):
    x = torch.rand(120, 1, 4, 4, generator=generator(0))
    flow = rf.GenerativeFlow(particles=40, initial_steps=2, slices=4, model="recorded", stages=1, bins=8)
    flow.fit(x, **CONDITIONS.get(kind, {}))
    flow.save_pretrained(tmp_path / "model", model_card_kwargs={"repository": str(tmp_path / "model")})
    example = re.search("```python\n(.*?)```", (tmp_path / "model" / "README.md").read_text(), re.DOTALL)[1]
    names = {}
    exec(example, names)
    assert names["samples"].shape == (16, 1, 4, 4)
    assert ("condition=" in example) == (kind is not None)
    assert "between 0.0 and 1.0" in example


def test_the_card_of_vectors_claims_no_range(tmp_path):
    x = 100 + 50 * torch.randn(120, 3, generator=generator(0))
    flow = rf.GenerativeFlow(particles=40, initial_steps=2, slices=4, model="recorded", stages=1, bins=8).fit(x)
    flow.save_pretrained(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "in the data's own values" in card and "between 0.0" not in card


SCORES = {"samples": 5, "held_out": 6, "feature_space": "f", "scores": {"recall": {"generated": 0.125, "training_data": 0.5}}}


def test_scores_of_other_networks_are_not_published(tmp_path):
    flow, other = trained("recorded"), trained("networks")
    other.run.write_evaluation(SCORES)
    shutil.copy(other.run.path / "evaluation.json", flow.run.path)
    with pytest.warns(Notice, match="the scores are of other networks"):
        flow.save_pretrained(tmp_path / "model")
    assert "It was not evaluated" in (tmp_path / "model" / "README.md").read_text()
    assert not (tmp_path / "model" / "evaluation.json").exists()
    with pytest.raises(RunError, match="is not an empty folder"):  # where another model's card or networks may lie
        other.save_pretrained(tmp_path / "model")


def test_scores_that_were_edited_or_are_none_are_refused(tmp_path):
    flow = trained("recorded")
    flow.run.write_evaluation(SCORES)
    file = flow.run.path / "evaluation.json"
    file.write_text(file.read_text().replace("0.125", "0.999"))
    with pytest.raises(RunError, match="damaged or edited"):
        flow.save_pretrained(tmp_path / "model")
    flow.run.write_evaluation({**SCORES, "scores": {"recall": {"generated": "high"}}})
    with pytest.raises(RunError, match="does not contain scores"):
        flow.save_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
@pytest.mark.parametrize("what", ["damaged", "arguments", "pipe", "endless", "list"])
def test_config_json_is_not_read(what, tmp_path):
    flow = trained("recorded")
    flow.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.unlink()
    if what == "pipe":
        os.mkfifo(file)
    elif what == "endless":
        file.symlink_to("/dev/zero")
    else:
        file.write_text({"damaged": "{", "arguments": '{"network": "unet", "token": 1, "self": 2}', "list": "[1]"}[what])
    again = rf.GenerativeFlow.from_pretrained(tmp_path / "model")
    assert torch.equal(again.sample(5, seed=1), flow.sample(5, seed=1))
    with pytest.raises(TypeError, match="unexpected keyword"):
        rf.GenerativeFlow.from_pretrained(tmp_path / "model", slices=3)


def test_what_cannot_be_fetched_is_said_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(RunError, match="must be a folder or a repository") as caught:
        rf.GenerativeFlow.from_pretrained(f"{tmp_path}/no/such/folder")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("where", ["images/way.png", "networks/0001.safetensors", "images", "notes.txt"])
def test_links_out_of_a_run_are_not_followed(where, tmp_path):
    flow = trained("recorded")
    (flow.run.path / "images").mkdir()
    (flow.run.path / "images" / "way.png").write_bytes(b"picture")
    private = tmp_path / "private" / "secret.png"
    private.parent.mkdir()
    file = flow.run.path / where
    private.write_bytes(file.read_bytes() if file.is_file() else b"secret")
    shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
    file.symlink_to(private.parent if where == "images" else private)
    shutil.copy(private, private.with_name("way.png"))
    with pytest.raises(FileError, match="a link that leads out"):
        flow.save(tmp_path / "copy")
    if where != "notes.txt":  # which is not published
        with pytest.raises(FileError, match="a link that leads out"):
            flow.save_pretrained(tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["private"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_pipes_in_a_run_are_not_copied(tmp_path):
    flow = trained("recorded")
    (flow.run.path / "images").mkdir()
    os.mkfifo(flow.run.path / "images" / "way.png")
    for save in (flow.save, flow.save_pretrained):
        with pytest.raises(FileError, match="must be a regular file"):
            save(tmp_path / "copy")


def test_a_fetched_model_can_be_published_again(tmp_path):
    """The cache of huggingface_hub: files of a snapshot are links to blobs beside it."""
    flow = trained("recorded")
    flow.save_pretrained(tmp_path / "model")
    snapshot, blobs = tmp_path / "models--owner--name" / "snapshots" / "1a", tmp_path / "models--owner--name" / "blobs"
    blobs.mkdir(parents=True)
    for number, file in enumerate(f for f in sorted((tmp_path / "model").rglob("*")) if f.is_file()):
        link = snapshot / file.relative_to(tmp_path / "model")
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blobs / str(number))
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    fetched = rf.GenerativeFlow.from_pretrained(snapshot)
    for name, save in (("published", fetched.save_pretrained), ("saved", fetched.save)):
        save(tmp_path / name)
        again = rf.GenerativeFlow.load(tmp_path / name)
        assert not (tmp_path / name / "config.yaml").is_symlink()
        assert torch.equal(again.sample(5, seed=1), flow.sample(5, seed=1))


def test_names_are_one_line_of_text(tmp_path):
    """On the card and in the report: no line of its own, no markup, nothing that steers a terminal."""
    name = "data\n# Heading\r<script src=x>\x1b[31m [a](b) |"
    content = rf.data.Dataset(name, torch.rand(80, 2, generator=generator(0)), torch.rand(20, 2, generator=generator(1)))
    flow = rf.GenerativeFlow(particles=40, initial_steps=2, slices=4, model="recorded", stages=1, bins=8).fit(content)
    flow.save_pretrained(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    page = report.write_report(flow.run).read_text()
    for text in (card, page):
        assert "\n# Heading" not in text and not re.search(r"(?<!\\)<script", text) and "\x1b" not in text
        assert "\\n" in text and "\\x1b" in text
    assert "](b)" not in card.replace("\\](b)", "")


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
    with pytest.raises(RunError, match="not a run of rieszflow"):
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
        ("energy_distance/fresh_samples", [row.energy_distance["fresh_samples"] for row in rows]),
        ("fit_error", [row.fit_error for row in rows]),
    ):
        found = board.Scalars(name)
        assert [e.step for e in found] == [row.flow_steps_total for row in rows]
        assert [e.value for e in found] == pytest.approx(values, rel=1e-6)  # kept in float32
    assert [len(board.Images(name)) for name in ("particles", "samples")] == [2, 2]


class Mine(rf.GenerativeFlow, license="mit", tags=["mine"]):
    pass


def test_a_subclass_comes_back_as_itself_with_what_it_says_on_its_card(tmp_path):
    flow = Mine(model="recorded", stages=1, bins=8, particles=40, initial_steps=2, slices=4)
    flow.fit(torch.rand(60, 2, generator=generator(1))).save_pretrained(
        tmp_path / "model", model_card_kwargs={"language": "en"}
    )
    data = ModelCard.load(tmp_path / "model" / "README.md").data
    assert (data.license, data.language, data.library_name) == ("mit", "en", "rieszflow")
    assert {"mine", "mmd"} < set(data.tags)
    found = Mine.from_pretrained(tmp_path / "model")
    assert type(found) is Mine and torch.equal(found.sample(3, seed=1), flow.sample(3, seed=1))
    card = flow.generate_model_card(license="apache-2.0", tags=["other"])
    assert (card.data.license, card.data.tags) == ("apache-2.0", ["other"])


def test_options_that_would_do_nothing_are_refused(tmp_path):
    with pytest.raises(InputTypeError, match="`private` must go with push_to_hub=True"):
        trained("recorded").save_pretrained(tmp_path / "model", private=True)
    assert not any(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="`config` must be a Config, got dict"):
        rf.GenerativeFlow({"particles": 100})
