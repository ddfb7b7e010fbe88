"""report.html: what a reader gets on any screen, and words for those who do not see the pictures."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import rieszflow as rf
from rieszflow import report
from rieszflow.generative import GenerativeFlow, Run
from rieszflow.generative.run import StageMetrics
from rieszflow.metrics import scores as metric_scores


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    x = torch.randn(60, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    flow = GenerativeFlow(particles=40, stages=2, initial_steps=4, slices=8, fit_steps=4, network="mlp", width=8)
    flow.fit(x, run=tmp_path_factory.mktemp("report") / "run", draw=report.draw)
    scores = {score: {"generated": 0.25, "training_data": -0.125} for score in metric_scores.BETTER}
    flow.run.write_evaluation(
        {"samples": 9, "held_out": 9, "feature_space": "values", "scores": scores, "better": metric_scores.BETTER,
         "cautions": ["9 are few <9>"], "nearest_training_distance": {"generated": 1.0, "held_out": 2.0}}
    )  # fmt: skip
    report.write_report(flow.run)
    return flow.run


def test_the_table_of_stages():
    """Seconds are those of each stage, though the file counts them from the start; empty columns are omitted."""

    def row(number, level, seconds, **more):
        distances = {"particles": 0.5, "fresh_samples": 0.25, "training_data": 0.0}
        return StageMetrics(number, level, 7, 7 * number, distances, seconds, **more)

    rows = [row(1, 1, {"flow": 1.5, "finish": 0.5}), row(2, 1, {"flow": 4.0, "finish": 1.0})]
    headings, cells = report.page.stage_table(rows)
    assert headings == ["stage", "steps", "particles", "fresh", "seconds"]
    assert cells == [["1", "7", "0.5000", "0.2500", "2.0"], ["2", "7", "0.5000", "0.2500", "3.0"]]
    headings, cells = report.page.stage_table([row(1, 4, {"fit": 1.0}, fit_error=0.1), rows[1]])
    assert headings == ["stage", "pooled", "steps", "fit error", "particles", "fresh", "seconds"]
    assert [line[1:4] for line in cells] == [["4", "7", "0.100"], ["", "7", ""]]


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 28, 28), (3, 32, 32), (2, 16, 16)])
def test_small_images_are_shown_large(tmp_path, shape):
    """Pixels are enlarged at least three times and stay sharp; scatter plots keep their size."""
    report.save_picture(tmp_path / "images" / "x.png", report.picture(torch.zeros(64, *shape)))
    found = report.page._figure(SimpleNamespace(path=tmp_path, shape=shape), "x", "x", "x")
    width = int(re.search(r'style="width: (\d+)px"><img class=pixels', found)[1])
    gap = max(1, shape[2] * (shape[0] if shape[0] == 2 else 1) // 14)
    pixels = 8 * (shape[2] * (shape[0] if shape[0] == 2 else 1) + gap) + gap
    assert width >= 3 * pixels - 1
    assert "class=pixels" not in report.page._figure(SimpleNamespace(path=tmp_path, shape=(2,)), "x", "x", "x")


def test_a_recorded_run_has_stages_and_no_networks(tmp_path):
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    flow = GenerativeFlow(model="recorded", particles=40, stages=2, initial_steps=4, slices=8)
    flow.fit(x, run=tmp_path / "run", draw=report.draw)
    text = " ".join(Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8")).text.split())
    assert "points of shape (2,): 2 of 2 stages" in text
    assert "network" not in text.split("Settings")[0]


class Page(HTMLParser):
    """Pictures' words, and what every table lies in."""

    def __init__(self, text):
        super().__init__()
        self.open, self.alts, self.around_tables, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "img":
            self.alts.append(values["alt"])
        if tag == "table":
            self.around_tables.append(self.open[-1])
        if tag not in ("img", "meta", "link"):
            self.open.append((tag, values.get("class")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag  # well nested

    def handle_data(self, data):
        self.text += data


def test_text_and_tables(run):
    page = Page((run.path / "report.html").read_text(encoding="utf-8"))
    assert page.around_tables == [("div", "wide")] * 3 and not page.open[1:]
    first, last = run.metrics()
    curves = f"fresh samples go from {first.energy_distance['fresh_samples']:.3g} to"
    assert any(curves in alt for alt in page.alts) and f"to {last.fit_error:.3g}." in "".join(page.alts)
    assert all(len(alt) > 40 for alt in page.alts) and len(set(page.alts)) == len(page.alts) == 5
    for words in ("docs/design.md of the project", "lower is better", metric_scores.AROUND_ZERO[1:], "9 are few <9>"):
        assert words in " ".join(page.text.split())


def test_direction_of_every_score(run):
    page = (run.path / "report.html").read_text(encoding="utf-8")
    rows = re.findall(r"<tr><td>(\w+)</td><td>0.2500</td><td>-0.1250</td><td>(\w+)</td></tr>", page)
    assert dict(rows) == metric_scores.BETTER and set(metric_scores.BETTER.values()) == {"lower", "higher"}


def test_an_evaluation_of_an_earlier_version(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    old = run.evaluation()
    for key in ("better", "cautions"):
        del old[key]
    Run.open(tmp_path / "run").write_evaluation(old)
    page = report.write_report(Run.open(tmp_path / "run")).read_text(encoding="utf-8")
    assert "<td>higher</td>" in page and "are few" not in page


def test_names_that_are_not_text(run, tmp_path):
    """File names may contain bytes that are not UTF-8, which Python passes on as lone surrogates."""
    shutil.copytree(run.path, tmp_path / "run")
    opened = Run.open(tmp_path / "run")
    opened.data["name"] = "<b>\udcff.npy"
    page = report.write_report(opened).read_text(encoding="utf-8")
    assert "<h1>&lt;b&gt;\\udcff.npy</h1>" in page


def test_long_names_are_shortened():
    assert report.figures._short_name("short\nname", 20) == "short name"
    long = report.figures._short_name("x" * 50 + ".parquet", 20)
    assert len(long) == 20 and long.endswith("x.parquet"[-9:]) and "…" in long


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
def test_narrow_and_dark_page(run, tmp_path):
    """At a width of 500 pixels nothing extends beyond the right edge, and the dark page has readable text."""
    script = (
        "<script>onload = () => document.title = [document.documentElement.scrollWidth, innerWidth, "
        "...[...document.images].map(i => i.getBoundingClientRect().right)]</script>"
    )
    page = (run.path / "report.html").read_text(encoding="utf-8")
    (tmp_path / "page.html").write_text(page.replace("</body>", script + "</body>"), encoding="utf-8")
    dom = chromium(tmp_path, "page.html", "--window-size=500,2000", "--dump-dom").stdout
    width, inner, *edges = map(float, re.search("<title>(.*?)</title>", dom)[1].split(","))
    assert width <= inner <= 500 and edges and max(edges) <= inner
    (tmp_path / "dark.html").write_text(page.replace("prefers-color-scheme: dark", "min-width: 1px"), encoding="utf-8")
    for name, dark in (("page", False), ("dark", True)):
        chromium(tmp_path, f"{name}.html", "--window-size=500,2000", f"--screenshot={tmp_path / name}.png")
        heading = np.asarray(Image.open(tmp_path / f"{name}.png").convert("L"), float)[:300]  # title and words
        assert (np.median(heading) < 60, np.median(heading) > 200) == (dark, not dark)
        assert heading.max() - heading.min() > 150


def chromium(folder, page, *options):
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update"
    command = ["chromium", *flags.split(), "--disable-sync", f"--user-data-dir={folder / 'profile'}", *options]
    done = subprocess.run([*command, (folder / page).as_uri()], check=True, capture_output=True, text=True, timeout=120)
    return done


def test_where_samples_differ_is_drawn(monkeypatch):
    """The witness is positive where the first one has more points, also if the first one is a sketch or there is one column."""
    g = np.random.default_rng(0)
    old, new = g.normal(size=(3000, 2)), g.normal([1, 0], size=(800, 2))
    sketch = rf.SliceSketch.from_points(old, slices=8)
    for first, second in ((sketch, new), (new, sketch), (old, new), (old[:, :1], new[:, :1])):
        found = rf.compare(first, second)
        assert report.comparison(found, ("one", "two")).width > 500
        right = found.witness(np.array([[3.0, 0.0][: found.x.d]])).values[0]  # where new points are
        assert (right > 0) == (first is new)
    with pytest.raises(ValueError, match="`compare` must be given points for a witness, got two sketches"):
        rf.compare(sketch, sketch).witness(old)
