"""rieszflow train | resume | sample | evaluate | info | compare | sketch."""

from __future__ import annotations

import sys

from rieszflow.errors import InputError

try:
    import codecs
    import dataclasses
    import io
    import logging
    import os
    import shlex
    import signal
    import tempfile
    import threading
    import unicodedata
    import warnings
    from collections.abc import Iterator
    from contextlib import contextmanager
    from pathlib import Path
    from typing import TYPE_CHECKING, Annotated, Any

    import typer
    from rich import progress as bars
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.table import Table
    from typer.core import TyperGroup

    from rieszflow import Notice, Progress, __version__
except KeyboardInterrupt:  # nobody can catch it for us yet
    print("error: interrupted", file=sys.stderr)
    sys.exit(130)

if TYPE_CHECKING:
    from rieszflow.generative import Config

# What a command needs beyond this is imported when it runs: PyTorch alone takes two seconds.


def _rank() -> int:
    """Under torchrun the first process speaks for all of them. A variable RANK alone may be anybody's."""
    rank = os.environ.get("RANK", "")
    return int(rank) if rank.isdecimal() and "WORLD_SIZE" in os.environ else 0


_RANK = _rank()
# Names of files and columns are no markup.
console = Console(quiet=_RANK != 0, markup=False, emoji=False)

_Refused: Any = typer.BadParameter.__mro__[2]  # ClickException; Typer has had Click's own, and now has a copy

_SPELT = {"→": "->", "×": "x", "–": "-", "—": "-", "−": "-", "≥": ">=", "≤": "<=", "“": '"', "”": '"', "‘": "'", "’": "'"}


def _spell(error: UnicodeError) -> tuple[str, int]:
    """For terminals that are ASCII or the like: D2 for D², "..." for "…", and "?" rather than no result."""
    assert isinstance(error, UnicodeEncodeError)
    spelt = ""
    for sign in error.object[error.start : error.end]:
        plain = _SPELT.get(sign) or unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
        spelt += plain or "?"
    return spelt, error.end


codecs.register_error("rieszflow", _spell)


def _line(text: str) -> str:
    """In one line and without what steers a terminal, for names come from files."""
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))


def _say(kind: str, message: str) -> None:
    if sys.stderr is not None:  # closed by the caller; `print` would take stdout instead
        print(f"{kind}: {_line(message)}", file=sys.stderr)


class _Call:
    """What is known of the command at work: the notices given so far, and the run that could be resumed."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.run: Path | None = None
        self.interrupted = False
        self._said: set[str] = set()

    @contextmanager
    def prints_warnings(self) -> Iterator[None]:
        """Our notices in one line each, other libraries' warnings likewise; every text once, and the first process only."""
        log, handler = logging.getLogger("rieszflow"), _LogLines()
        level = log.level
        # It says that its folder for settings and fonts cannot be written. That harms nobody here.
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("always", Notice)
            warnings.showwarning = self._show
            log.addHandler(handler)
            log.setLevel(logging.INFO)
            try:
                yield
            finally:
                log.removeHandler(handler)
                log.setLevel(level)

    def _show(
        self, message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        text, ours = str(message), issubclass(category, Notice)
        if ours and text not in self.notices:
            self.notices.append(text)
        if not ours:
            text += f" ({category.__name__} of {'/'.join(Path(filename).parts[-2:])})"
        if text not in self._said and _RANK == 0:
            self._said.add(text)
            _say("note" if ours else "warning", text)

    @contextmanager
    def notes_interrupts(self) -> Iterator[None]:
        """Remembers Ctrl-C, for what is interrupted may end in another error: a half-imported library in an ImportError."""

        def interrupt(*_: Any) -> None:
            self.interrupted = True
            raise KeyboardInterrupt

        old = signal.getsignal(signal.SIGINT)
        mine = threading.current_thread() is threading.main_thread() and old is signal.default_int_handler
        if mine:
            signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            if mine:  # a second Ctrl-C, while we tidy up, ends the process at once
                signal.signal(signal.SIGINT, signal.SIG_DFL if self.interrupted else old)


class _LogLines(logging.Handler):
    """What the library logs, as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        if _RANK == 0:
            _say("note", record.getMessage())


_call = _Call()


class _Commands(TyperGroup):
    """All commands, and the one way out of them: wrong input ends in one line on stderr; a bug keeps its traceback.

    Exit codes: 1 for what a command refuses, 2 for what Typer refuses, 130 after Ctrl-C.
    """

    def main(self, args: Any = None, *rest: Any, **extra: Any) -> Any:
        global _call
        _call = _Call()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="rieszflow")
        args = list(sys.argv[1:] if args is None else args)
        try:
            with _call.notes_interrupts(), _call.prints_warnings():
                code = super().main(args or ["--help"], *rest, **{**extra, "standalone_mode": False})
                if sys.stdout is not None:
                    sys.stdout.flush()
        except BrokenPipeError:
            # Nobody reads on, as after `| head`. Rich and Typer end quietly then, and so do we: Python would complain once
            # more on flushing at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except (KeyboardInterrupt, typer.Abort):
            code = 130
        except Exception as error:
            if not _call.interrupted:
                code = _refusal(error)
                if code is None:
                    raise
            else:
                code = 130
        if code == 130:
            run = _call.run
            on = f"; `rieszflow resume {shlex.quote(str(run))}` goes on from the last checkpoint"
            _fail("interrupted" + (on if run is not None and (run / "config.yaml").is_file() else ""))
        sys.exit(code or (0 if args else 2))


def _refusal(error: Exception) -> int | None:
    """Says what was wrong with the input and returns the exit code; None for a bug."""
    if isinstance(error, _Refused):
        _fail(error.format_message())
        return int(error.exit_code)
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or type(error).__name__ == "OutOfMemoryError":
        _fail(f"not enough memory ({error})" if str(error) else "not enough memory")
        return 1
    if isinstance(error, (ValueError, TypeError, OSError, ImportError)):
        _fail(str(error))
        return 1
    return None


def _fail(message: str) -> None:
    _say("error", (f"process {_RANK}: " if _RANK else "") + message)


# Checks that cost nothing, before a command loads or computes anything.


def _at_least(option: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{option}: {value} given; a whole number of at least {least} is accepted")


def _check_file(out: Path, *suffixes: str) -> None:
    if out.suffix not in suffixes:
        raise InputError(f"--out: {out} given; a name that ends in {' or '.join(suffixes)} is accepted")
    for file in {out, out.with_suffix(".png")}:
        if file.is_dir():
            raise InputError(f"--out: {file} is a folder; a file's name is accepted")
    if not out.parent.is_dir():
        raise InputError(f"--out: {out} given, but there is no folder {out.parent}; make it first")
    _check_writable(out.parent)


def _check_new_run(out: Path) -> None:
    if _RANK:
        return  # the first process makes the folder
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"--out: {out} exists and is not an empty folder; choose another, or resume it")
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"--out: {out} given, but {there} is a file; choose another")
    _check_writable(there)


def _check_writable(folder: Path) -> None:
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"--out: nothing can be written in {folder} ({error.strerror}); choose another place") from None


app = typer.Typer(
    cls=_Commands,
    name="rieszflow",
    help="Turn noise into data along the sliced MMD flow with the Riesz kernel, and measure how well it went.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)]


def _version(wanted: bool) -> None:
    if wanted:
        console.print(f"rieszflow {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


@app.command()
def train(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="digits, fashion-mnist, mnist, cifar10, celeba, hf:NAME, a folder of pictures or IDX files, a .npy or .npz "
            "file, a .csv or .parquet table.",
            show_default=False,
        ),
    ],
    data: Annotated[Path | None, typer.Option(help="Where the files of a named data set are.", show_default=False)] = None,
    preset: Annotated[str, typer.Option(help="A preset's name (see `rieszflow info`), or a YAML file.")] = "cpu",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run, empty or new.", show_default="runs/DATASET-PRESET")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.", show_default=False)] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …; default: the preset's.", show_default=False)] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, as in --set networks=4; repeatable.", show_default=False)
    ] = None,
) -> None:
    """Train a generative flow on a data set; leaves networks, metrics and report.html in a folder."""
    name = dataset.removeprefix("hf:")
    out = out or Path("runs") / f"{Path(name).absolute().stem}-{Path(preset).stem}"
    _check_new_run(out)
    overrides = _overrides(set_ or [])
    overrides |= {key: value for key, value in (("seed", seed), ("device", device)) if value is not None}

    from rieszflow import report
    from rieszflow.data import NAMED, load
    from rieszflow.generative import Config, GenerativeFlow

    # What is in a file or folder decides between the presets for images and for vectors, but not the split's seed.
    config = Config.preset(name if name in NAMED else "images", preset, **overrides)
    config.torch_device()
    content = load(dataset, data, config.held_out, config.seed)
    if name not in NAMED and len(content.shape) != 3:
        config = Config.preset("vectors", preset, **overrides)
    targets = min(config.targets or len(content.train), len(content.train))
    console.print(
        f"{content.name}: {len(content.train)} training data of shape {content.shape}, {config.particles} particles flow "
        f"towards {targets} of them; run: {out}",
        soft_wrap=True,
    )
    _call.run = out
    with _Training(config) as show:
        flow = GenerativeFlow(config).fit(content, run=out, progress=show, draw=report.draw)
    assert flow.run is not None
    _finished(flow.run)


@app.command()
def resume(
    run: RunArgument,
    data: Annotated[Path | None, typer.Option(help="Where the data are now, if they were moved.", show_default=False)] = None,
) -> None:
    """Continue a run from its last checkpoint: killed or finished, on the same data and settings."""
    from rieszflow import report
    from rieszflow.generative import GenerativeFlow, Run
    from rieszflow.generative import load_data

    opened = Run.open(run)
    opened.config.torch_device()
    if opened.finished() == opened.config.total_networks():
        console.print(f"{run}: all {opened.finished()} networks are trained already", soft_wrap=True)
    _call.run = run
    with _Training(opened.config) as show:
        GenerativeFlow.resume(run, load_data(opened, data), progress=show, draw=report.draw)
    _finished(opened)


@app.command()
def sample(
    run: RunArgument,
    n: Annotated[int, typer.Option("-n", help="How many samples.")] = 1000,
    out: Annotated[
        Path, typer.Option(help="File for the samples, .npz (array x) or .npy; a .png with a grid beside it.")
    ] = Path("samples.npz"),
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Samples in one pass of a network.")] = 500,
) -> None:
    """Draw new samples from a run, in the data's own values."""
    for option, value, least in (("-n", n, 1), ("--seed", seed, 0), ("--batch-size", batch_size, 1)):
        _at_least(option, value, least)
    _check_file(out, ".npz", ".npy")

    import numpy as np

    from rieszflow import report
    from rieszflow._files import atomically
    from rieszflow.data import scaled
    from rieszflow.generative import GenerativeFlow

    flow = GenerativeFlow.load(run)
    assert flow.run is not None
    with _Passes() as passes:
        x = flow.sample(n, seed=seed, batch_size=batch_size, progress=passes)
    array = x.numpy()
    atomically(out, lambda t: np.savez_compressed(t, x=array) if out.suffix == ".npz" else np.save(t, array))
    known = flow.run.data
    shown = scaled(x[: 64 if x.ndim == 4 else 2000], known["low"], known["high"], known.get("centre"))
    report.save_picture(out.with_suffix(".png"), report.picture(shown))
    console.print(f"{out}: {n} samples of shape {tuple(x.shape[1:])}; picture: {out.with_suffix('.png')}", soft_wrap=True)


@app.command()
def evaluate(
    run: RunArgument,
    n: Annotated[int, typer.Option("-n", help="Samples, and as many held-out data, if there are.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of noise, classifier and choice of real data.")] = 0,
    data: Annotated[Path | None, typer.Option(help="Where the data are now, if they were moved.", show_default=False)] = None,
    inception_weights: Annotated[
        Path | None, typer.Option(help="torch-fidelity's Inception weights, for FID as in the literature.", show_default=False)
    ] = None,
) -> None:
    """Score fresh samples against held-out data, with real training data as the yardstick beside every score."""
    _at_least("-n", n, 4)
    _at_least("--seed", seed, 0)
    from rieszflow import metrics, report
    from rieszflow.generative import GenerativeFlow
    from rieszflow.generative import load_data

    flow = GenerativeFlow.load(run)
    assert flow.run is not None
    flow.run.metrics()  # the report needs them, and a damaged file should not cost the scoring
    content = load_data(flow.run, data)
    with _Passes() as passes:
        x = flow.sample(n, seed=seed, progress=passes)
    with console.status("scoring"):
        x = content.scale(x)
        scores = metrics.evaluate(x, content, seed, inception_weights)
    flow.run.write_evaluation(scores)
    if x.ndim == 4:
        shown = x[:16]
        closest = content.train[metrics.nearest(shown, content.train.flatten(1))[0]]
        pairs = [part for k in (0, 8) for part in (shown[k : k + 8], closest[k : k + 8])]
        import torch

        report.save_picture(flow.run.path / "images" / "nearest.png", report.picture(torch.cat(pairs), columns=8))
    report.write_report(flow.run)
    rows = [
        [score, f"{values['generated']:.4f}", f"{values['training_data']:.4f}", scores["better"][score]]
        for score, values in scores["scores"].items()
    ]
    _print_table(["score", "generated", "training data", "better"], rows)
    console.print("training data: as many real ones, the yardstick", soft_wrap=True)
    console.print(metrics.AROUND_ZERO, soft_wrap=True)
    console.print(f"{scores['samples']} samples against {scores['held_out']} held-out data, seed {seed}", soft_wrap=True)
    console.print(f"features: {scores['feature_space']} (not the Inception FID of the literature)", soft_wrap=True)
    memory = scores["nearest_training_distance"]
    console.print(
        f"median distance to the nearest training datum: generated {memory['generated']:.3f}, "
        f"held-out {memory['held_out']:.3f} (much smaller would mean memorising); "
        f"all in {run / 'evaluation.json'} and {run / 'report.html'}",
        soft_wrap=True,
    )


@app.command()
def info(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Folder of a run.", show_default=False)] = None,
) -> None:
    """What a run is and how far it has come; without a run: data sets and presets."""
    from rieszflow.data import NAMED
    from rieszflow.generative import Run, presets

    if run is None:
        own = ", hf:NAME, a folder of pictures or IDX files, a .npy or .npz file, a .csv or .parquet table"
        console.print("data sets: " + ", ".join(NAMED) + own, soft_wrap=True)
        console.print("presets:   " + ", ".join(f"{d} {n}" for d, n in presets()), soft_wrap=True)
        return
    opened = Run.open(run)
    console.print(
        f"{run}: {opened.data['name']}, {opened.data['points']} training data of shape {opened.shape}, "
        f"{opened.finished()} of {opened.config.total_networks()} networks",
        soft_wrap=True,
    )
    if missing := opened.missing():
        console.print(f"missing networks: {', '.join(map(str, missing))}; `rieszflow resume` trains them again", soft_wrap=True)
    if (state := opened.load_state()) is not None and opened.finished() < opened.config.total_networks():
        meta = state[1]
        console.print(f"checkpoint: network {meta['network']}, {meta['phase']}, step {meta['step']}", soft_wrap=True)
    _print_table(
        ["network", "pooled", "steps", "fit error", "particles", "fitted", "fresh", "seconds"],
        [_cells(row) for row in opened.metrics()],
    )
    console.print(
        "energy distances to held-out data, lower is better: of the flow's particles, of the particles fitted by the network, "
        "of fresh samples; the statisticians' and unbiased: around 0, and so below it at times, where nothing differs. "
        "Fit error: the share of the displacement that a network misses.",
        soft_wrap=True,
    )


SOURCE = "a .npy, .npz, .csv, .tsv or .parquet file, a folder of tables or of pictures"

# How tables are read: `rieszflow.stream` and docs/data.md say what each option means.
Columns = Annotated[
    str | None,
    typer.Option(help="Columns of tables to read, separated by commas; default: all of numbers.", show_default=False),
]
Exclude = Annotated[str | None, typer.Option(help="Columns not to read, separated by commas.", show_default=False)]
Header = Annotated[str, typer.Option(help="Whether CSV files have names in their first row: auto, yes or no.")]
Delimiter = Annotated[str | None, typer.Option(help="Between the cells of CSV files; default: a comma.", show_default=False)]
Decimal = Annotated[str, typer.Option(help="Decimal sign in text.")]
Thousands = Annotated[str | None, typer.Option(help="Separator of thousands in text.", show_default=False)]
Missing = Annotated[
    list[str] | None,
    typer.Option(
        help="Text of a missing value; rows with one are left out. Repeatable; '' for empty cells.", show_default=False
    ),
]
Dates = Annotated[bool, typer.Option("--dates", help="Read dates and times as seconds.")]
Encoding = Annotated[str, typer.Option(help="Of CSV files.")]


def _reading(
    columns: str | None, exclude: str | None, header: str, delimiter: str | None, decimal: str, thousands: str | None,
    missing: list[str] | None, dates: bool, encoding: str,
) -> dict[str, Any]:  # fmt: skip
    """The options of tables as `rieszflow.stream` takes them."""
    import csv

    if header not in ("auto", "yes", "no"):
        raise InputError(f"--header: {header} given; auto, yes and no are accepted")
    named = {name: next(csv.reader([text])) for name, text in (("columns", columns), ("exclude", exclude)) if text is not None}
    plain = {"delimiter": delimiter, "decimal": decimal, "thousands": thousands, "dates": dates, "encoding": encoding}
    return {**named, **plain, "header": {"yes": True, "no": False}.get(header, "auto"), "missing": missing or None}


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=f"{SOURCE}, or a .sketch file.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="Likewise; one row is one point.", show_default=False)],
    slices: Annotated[int | None, typer.Option(help="Random directions; a sketch has its own.", show_default="256")] = None,
    permutations: Annotated[int, typer.Option(help="The least p-value is one over this plus one.")] = 999,
    seed: Annotated[int, typer.Option(help="Seed of directions and permutations.")] = 0,
    top: Annotated[int, typer.Option(help="Columns to name, those that differ most.")] = 5,
    out: Annotated[Path, typer.Option(help="Picture of the columns and the slice that differ most.")] = Path("compare.png"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of a table.")] = False,
    common: Annotated[bool, typer.Option("--common", help="Compare the columns that both tables have.")] = False,
    columns: Columns = None,
    exclude: Exclude = None,
    header: Header = "auto",
    delimiter: Delimiter = None,
    decimal: Decimal = ".",
    thousands: Thousands = None,
    missing: Missing = None,
    dates: Dates = False,
    encoding: Encoding = "utf-8",
) -> None:
    """Test whether two files hold samples of one distribution; say by how much and where they differ."""
    numbers = (
        ("--slices", 256 if slices is None else slices, 1),
        ("--permutations", permutations, 1),
        ("--seed", seed, 0),
        ("--top", top, 0),
    )
    for option, value, least in numbers:
        _at_least(option, value, least)
    _check_file(out, ".png")

    import json

    from rieszflow import report
    from rieszflow.sketch import SliceSketch
    from rieszflow.stream import stream
    from rieszflow.two_sample import drift_test, two_sample_test

    reading = _reading(columns, exclude, header, delimiter, decimal, thousands, missing, dates, encoding)
    one, two = (SliceSketch.load(path) if path.endswith(".sketch") else None for path in (a, b))
    if slices is not None and (one or two):
        raise InputError(f"--slices: {slices} given; a sketch has its own slices")
    if common and (one or two):
        raise InputError("--common: a sketch is of all its columns; choose those of the other table with --columns")
    found: dict[str, Any] = {"a": a, "b": b}
    with _Passes() as passes:
        if one is not None and two is not None:
            test, x, y = None, one, two
            found |= {"distance": y.distance(x, statistic="U"), "interval": None, "p_value": None}
        else:
            if one is not None:
                test = drift_test(stream(b, **reading), one, permutations=permutations, seed=seed, progress=passes)
                x, y = one, test.x
            elif two is not None:
                test = drift_test(stream(a, **reading), two, permutations=permutations, seed=seed, progress=passes)
                x, y = test.x, two
            else:
                left, right = (stream(path, **reading) for path in (a, b))
                test = two_sample_test(
                    left, right, slices=slices or 256, permutations=permutations, seed=seed, progress=passes, common=common
                )
                x, y = test.x, test.y
            found |= {"distance": test.distance, "interval": list(test.interval), "p_value": test.p_value}
    found |= {"n": [x.n, y.n], "d": x.d, "slices": x.slices, "convention": "half the energy distance"}
    differ = []
    if x.columns:
        names, apart = report.column_names(y), y.feature_distances(x)
        differ = [(names[k], apart[k].item()) for k in apart.argsort(descending=True)[:top].tolist()]
    found["columns"] = [{"name": name, "energy_coefficient": value} for name, value in differ]
    report.save_picture(out, report.comparison(x, y, (Path(a).name, Path(b).name)))
    found["notices"] = _call.notices
    if as_json:
        print(json.dumps(found))
        return
    console.print(_line(f"{a}: {x.n} points; {b}: {y.n} points; d = {x.d}, {x.slices} slices"), soft_wrap=True)
    line = f"distance (D², half the energy distance; around 0 where nothing differs): {found['distance']:.6g}"
    if test is None:
        console.print(f"{line}; two sketches have no points left, so there is no test", soft_wrap=True)
    else:
        low, high = test.interval
        console.print(f"{line}, 95 % interval {low:.3g} … {high:.3g}", soft_wrap=True)
        console.print(f"p-value {test.p_value:.4g} ({test.permutations} permutations)", soft_wrap=True)
    if differ:
        _print_table(
            ["column", "energy coefficient (0: alike, 1: apart)"], [[_line(name), f"{value:.3g}"] for name, value in differ]
        )
    console.print(f"picture: {out}", soft_wrap=True)


@app.command()
def sketch(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE…", help=f"{SOURCE}; or .sketch files with equal bins.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The sketch.", show_default=False)],
    slices: Annotated[int | None, typer.Option(help="Random directions: 5 KB each.", show_default="256")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the directions.", show_default="0")] = None,
    like: Annotated[
        Path | None,
        typer.Option(help="A sketch whose slices and bins to take, to merge and compare with it.", show_default=False),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            help="Random points to keep as they are, for tests; 0 for none. Default: 2,048 at most.", show_default=False
        ),
    ] = None,
    columns: Columns = None,
    exclude: Exclude = None,
    header: Header = "auto",
    delimiter: Delimiter = None,
    decimal: Decimal = ".",
    thousands: Thousands = None,
    missing: Missing = None,
    dates: Dates = False,
    encoding: Encoding = "utf-8",
) -> None:
    """Sum up files of any size in a sketch of a few megabytes, to compare new data with later."""
    settings = [("--slices", slices, 1), ("--seed", seed, 0), ("--keep", keep, 0)]
    for option, value, least in settings:
        if value is not None:
            _at_least(option, value, least)
            if like is not None:
                raise InputError(f"{option}: {value} given with --like, whose sketch has its own")
    _check_file(out, ".sketch")
    from rieszflow.sketch import SliceSketch
    from rieszflow.stream import stream

    reading = _reading(columns, exclude, header, delimiter, decimal, thousands, missing, dates, encoding)
    total = SliceSketch.load(like).empty() if like is not None else None
    with _Passes() as passes:
        for source in sources:
            if source.endswith(".sketch"):
                part = SliceSketch.load(source)
                total = part if total is None else total.merge(part)
                continue
            points = stream(source, **reading)
            if total is None:
                total = SliceSketch(
                    points.first, slices=slices or 256, directions="auto", seed=seed or 0, names=points.names, sample=keep
                )
            total.update(points, progress=passes.named(Path(source).name))
    assert total is not None
    total.save(out)
    kept = 0 if total.kept is None else len(total.kept)
    console.print(
        f"{out}: {total.n} points, d = {total.d}, {out.stat().st_size / 1e6:.1f} MB, with {kept} random points as they are",
        soft_wrap=True,
    )


class _Passes:
    """A live bar for every pass over points."""

    def __enter__(self) -> _Passes:
        self.bars = _bars()
        self.tasks: dict[str, Any] = {}
        self.bars.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.bars.stop()

    def named(self, name: str) -> Any:
        """A callback whose bar has that name."""
        return lambda progress: self(dataclasses.replace(progress, what=name))

    def __call__(self, progress: Progress) -> None:
        name = progress.what
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(name)
        self.bars.update(self.tasks[name], completed=progress.done, total=progress.total)


def _overrides(items: list[str]) -> dict[str, Any]:
    from rieszflow.generative.yaml_text import parse_yaml

    values = {}
    for item in items:
        key, sign, value = item.partition("=")
        if not sign:
            raise InputError(f"--set: {item!r} given; KEY=VALUE is accepted")
        try:
            values[key] = parse_yaml(value)
        except ValueError:
            raise InputError(f"--set: the value of {key} is not readable: {value!r}") from None
    return values


def _cells(row: dict[str, Any]) -> list[str]:
    e = row["energy_distance"]
    distances = [f"{e[key]:.4f}" for key in ("particles", "network_particles", "fresh_samples")]
    seconds = f"{sum(row['seconds'].values()):.0f}"
    return [str(row["network"]), str(row["level"]), str(row["flow_steps"]), f"{row['fit_error']:.3f}", *distances, seconds]


def _print_table(headings: list[str], rows: list[list[str]]) -> None:
    """A table where it fits in the terminal, else a line for every cell."""
    table = Table(*headings)
    for row in rows:
        table.add_row(*row)
    if console.measure(table, options=console.options.update(width=10_000)).maximum <= console.width:
        console.print(table)
        return
    for row in rows:
        console.print(f"{headings[0]} {row[0]}", soft_wrap=True)
        for heading, cell in zip(headings[1:], row[1:], strict=True):
            console.print(f"  {heading}: {cell}", soft_wrap=True)


def _bars(period: float = 30) -> bars.Progress:
    """Bars whose remaining time goes by the speed of the last `period` seconds."""
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    # Where nobody watches, Rich would print an empty line for every bar. It catches what goes to the terminal meanwhile, to
    # keep the bars in order; stderr only where that is a terminal, too.
    return bars.Progress(
        *columns, console=console, transient=True, disable=not console.is_interactive, speed_estimate_period=period,
        redirect_stderr=sys.stderr.isatty(),
    )  # fmt: skip


class _Training:
    """Live bars for all scheduled steps and for the phase at work, and a line for every finished network."""

    def __init__(self, config: Config) -> None:
        fits = [level.fit_steps for _, level in config.level_configs() for _ in range(level.networks)]
        self.schedule = list(zip(config.flow_steps(), fits, strict=True))
        self.shown = -1

    def __enter__(self) -> _Training:
        # Flow and fit take turns, and their steps do not last equally long: the speed is that of the whole training.
        self.bars = _bars(period=float("inf"))
        self.steps = sum(map(sum, self.schedule))
        self.total = self.bars.add_task("networks", total=self.steps)
        self.phase = self.bars.add_task("flow", total=None)
        self.bars.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.bars.stop()

    def __call__(self, progress: Progress) -> None:
        flow, _ = self.schedule[progress.network - 1]
        done = sum(map(sum, self.schedule[: progress.network - 1])) + (flow if progress.what == "fit" else 0) + progress.done
        # Rich remembers a thousand updates of a bar: in steps of a thousandth they tell of the whole training.
        if (now := 1000 * done // self.steps) != self.shown:
            self.shown = now
            self.bars.update(self.total, description=f"network {progress.network} of {progress.networks}", completed=done)
        loss = "" if progress.loss is None else f", loss {progress.loss:.3f}"
        self.bars.update(self.phase, description=f"{progress.what}{loss}", completed=progress.done, total=progress.total)
        if progress.row is not None:
            number, level, steps, error, _, _, fresh, seconds = _cells(progress.row)
            yardstick = progress.row["energy_distance"]["training_data"]
            pooled = "" if level == "1" else f"  pooled by {level}"
            console.print(
                f"network {number:>3}{pooled}  flow steps {steps:>5}  fit error {error}  energy distance of fresh samples "
                f"{fresh} (training data {yardstick:.4f})  {seconds:>5} s",
                soft_wrap=True,
            )


def _finished(run: Any) -> None:
    console.print("energy distances: lower is better, around 0 and at times below it where nothing differs", soft_wrap=True)
    console.print(f"done: {run.path / 'report.html'}", soft_wrap=True)


def main() -> None:
    """The console script's entry."""
    app()
