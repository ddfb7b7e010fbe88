"""Models on the Hugging Face Hub: what is published of a run, and the card that says what it is and how good."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rieszflow._extras import extra
from rieszflow.errors import RunError
from rieszflow.generative.run import Run

with extra("generative", "generative models"):
    from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, snapshot_download

if TYPE_CHECKING:
    from torch import nn

    from rieszflow.generative.model import GenerativeFlow

__all__ = ["OnHub"]

_PUBLISHED = (
    "config.yaml",
    "metrics.jsonl",
    "evaluation.json",
    "networks/*.safetensors",
    "images/way.png",
    "images/nearest.png",
)
_CARD = """{metadata}

# {title}

{kind} of rieszflow: {trained}.

{picture}
```python
import rieszflow as rf

flow = rf.GenerativeFlow.from_pretrained("{repository}")
samples = flow.sample(16, seed=0)  # {shape}, between {low} and {high}
```

{scores}
Settings are in `config.yaml`, what was measured on the way in `metrics.jsonl`.

Source: Hertrich, Wald, Altekrüger, Hagemann, *Generative Sliced MMD Flows with Riesz Kernels*, ICLR 2024.
"""


class OnHub(ModelHubMixin):
    """`save_pretrained`, `from_pretrained` and `push_to_hub` of huggingface_hub, for `GenerativeFlow`.

    Published are settings, networks or recording, metrics, scores and two pictures: all that samples need. Checkpoints are not.
    The settings in config.yaml name the data and the place where they lay.
    """

    run: Run | None

    def _save_pretrained(self, save_directory: Path) -> None:
        run = _trained(self.run)
        for pattern in _PUBLISHED:
            for file in sorted(run.path.glob(pattern)):
                to = save_directory / file.relative_to(run.path)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, to)
        # For the hub, which counts downloads by this file. Settings are read from config.yaml alone.
        said = {"library_name": "rieszflow", "model": run.config.model, "shape": run.shape}
        (save_directory / "config.json").write_text(json.dumps(said), encoding="utf-8")

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        network: nn.Module | None = None,
        **said: Any,
    ) -> GenerativeFlow:
        from rieszflow.generative.model import GenerativeFlow

        folder = Path(model_id)
        if not folder.is_dir():
            folder = Path(
                snapshot_download(
                    model_id,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                )
            )
        return GenerativeFlow.load(folder, network=network)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads what `save_pretrained` writes; options as in `huggingface_hub.ModelHubMixin.push_to_hub`."""
        card = {"repository": repo_id, **(options.pop("model_card_kwargs", None) or {})}
        return super().push_to_hub(repo_id, model_card_kwargs=card, **options)

    def generate_model_card(self, *args: Any, repository: str = "OWNER/NAME", **kwargs: Any) -> ModelCard:
        """The card of a trained model, with its scores if it was evaluated.

        Args:
            args: not looked at; huggingface_hub's own.
            repository: where it will lie, for the example.
            kwargs: not looked at.
        """
        run = _trained(self.run)
        images = len(run.shape) == 3
        metadata = ModelCardData(
            library_name="rieszflow",
            tags=["energy-distance", "mmd", "generative-model", run.config.model],
            pipeline_tag="unconditional-image-generation" if images else None,
        )
        parts = run.trained()
        name, of = run.data["name"], f"{parts} {'networks' if run.config.model == 'networks' else 'parts'}"
        steps = sum(row["flow_steps"] for row in run.metrics())
        text = _CARD.format(
            metadata=f"---\n{metadata}\n---",
            title=f"{name}: a generative sliced MMD flow",
            kind="A sequence of networks" if run.config.model == "networks" else "A recorded flow without networks",
            trained=f"{of} along {steps} flow steps towards {run.data['points']} training data of {name}",
            picture="![from noise to data](images/way.png)\n" if (run.path / "images" / "way.png").is_file() else "",
            repository=repository,
            shape=(16, *run.shape),
            low=run.data["low"] if isinstance(run.data["low"], (int, float)) else "the data's least values",
            high=run.data["high"] if isinstance(run.data["high"], (int, float)) else "their greatest",
            scores=_scores(run.path / "evaluation.json"),
        )
        return ModelCard(text)


def _trained(run: Run | None) -> Run:
    if run is None or not run.trained():
        raise RunError("nothing to publish: call fit first")
    return run


def _scores(file: Path) -> str:
    """A table of what `rieszflow evaluate` found."""
    if not file.is_file():
        return "It was not evaluated.\n"
    found = json.loads(file.read_text(encoding="utf-8"))
    lines = [
        f"{found['samples']} samples against {found['held_out']} held-out data:",
        "",
        "| score | samples | training data |",
        "|---|---|---|",
    ]
    for name, score in found["scores"].items():
        lines.append(f"| {name.replace('_', ' ')} | {score['generated']:.4g} | {score['training_data']:.4g} |")
    return "\n".join(lines) + f"\n\nFeatures: {found['feature_space']}.\n"
