"""Models on the Hugging Face Hub: the published files of a run, and its card."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, snapshot_download

from rieszflow._infra.files import as_file_error
from rieszflow._infra.messages import one_line, printable
from rieszflow.errors import InputTypeError, RunError
from rieszflow.generative.run import Run
from rieszflow.generative.run_copies import copy_files, new_folder

if TYPE_CHECKING:
    from torch import nn

    from rieszflow.generative.model import GenerativeFlow

_PUBLISHED = ("config.yaml", "metrics.jsonl", "networks/*.safetensors", "images/way.png")
_SCORES = ("evaluation.json", "images/nearest.png")
_CARD = """---
{metadata}
---

# {title}

{kind} of rieszflow: {trained}.

{picture}
```python
{example}
```

{scores}
Settings are in `config.yaml`, the metrics of every stage in `metrics.jsonl`.

Source: Hertrich, Wald, Altekrüger, Hagemann, *Generative Sliced MMD Flows with Riesz Kernels*, ICLR 2024.
"""


class OnHub(ModelHubMixin):
    """The `save_pretrained`, `from_pretrained` and `push_to_hub` of `GenerativeFlow`.

    They publish settings, networks or recording, metrics, scores and two pictures, but no checkpoints. The published
    config.yaml contains the name and the path of the training data.
    """

    run: Run | None

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: object = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        overwrite: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> str | None:
        """Write the published files of a model to a folder, with a model card.

        Args:
            save_directory: The folder, which must be empty or absent.
            config: Unused; part of huggingface_hub's signature.
            repo_id: The repository to push to; None for the name of the folder.
            push_to_hub: True to call `push_to_hub` as well.
            overwrite: True to replace an existing model. A folder that holds no model is never replaced.
            model_card_kwargs: Keyword arguments of `generate_model_card`.
            options: Keyword arguments of `push_to_hub`; refused without it.

        Raises:
            InputTypeError: There are options without `push_to_hub`.
            RunError: Nothing is trained, the folder is not empty, a link leads out of the run, or scores were edited.
            WriteError: The folder cannot be written; nothing is left behind.
        """
        if options and not push_to_hub:
            raise InputTypeError(f"`{next(iter(options))}` must go with push_to_hub=True, got push_to_hub={push_to_hub!r}")
        folder = Path(save_directory)
        with new_folder(folder, overwrite) as temporary:
            super().save_pretrained(temporary, model_card_kwargs=model_card_kwargs)
        if not push_to_hub:
            return None
        return self.push_to_hub(repo_id or folder.name, model_card_kwargs=model_card_kwargs, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        run = _trained(self.run)
        patterns = _PUBLISHED if run.evaluation() is None else _PUBLISHED + _SCORES
        copy_files(run, [file for pattern in patterns for file in sorted(run.path.glob(pattern))], save_directory)
        # The Hub counts downloads of config.json; settings are read from config.yaml only.
        content = {"library_name": "rieszflow", "model": run.config.model, "shape": run.shape}
        (save_directory / "config.json").write_text(json.dumps(content), encoding="utf-8")

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the base class also uses the contents of a config.json
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        network: nn.Module | None = None,
    ) -> GenerativeFlow:
        """Open a published model in a folder or a repository of the Hub, from which only the files of a model are fetched.

        Args:
            pretrained_model_name_or_path: The folder, or OWNER/NAME.
            force_download, token, cache_dir, local_files_only, revision: As in `huggingface_hub.snapshot_download`.
            network: The module that the model was made with, if any.

        Raises:
            RunError: There is no such folder or repository, or it is not a run of rieszflow, or is damaged.
        """
        name = str(pretrained_model_name_or_path)
        folder = Path(name)
        if not folder.is_dir():
            try:
                fetched = snapshot_download(
                    name, revision=revision, cache_dir=cache_dir, force_download=force_download, token=token,
                    local_files_only=local_files_only, allow_patterns=[*_PUBLISHED, *_SCORES, "config.json"],
                )  # fmt: skip
            except (OSError, ValueError) as error:  # huggingface_hub's errors are subclasses of these
                raise RunError(f"{name}: must be a folder or a repository that can be fetched ({one_line(error)})") from error
            folder = Path(fetched)
        found: GenerativeFlow = cls.load(folder, network=network)  # type: ignore[attr-defined]  # of the subclass
        return found

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the files of `save_pretrained`. Options are those of `huggingface_hub.ModelHubMixin.push_to_hub`."""
        card = {"repository": repo_id, **(options.pop("model_card_kwargs", None) or {})}
        return super().push_to_hub(repo_id, model_card_kwargs=card, **options)

    def generate_model_card(self, *args: object, repository: str = "OWNER/NAME", **metadata: Any) -> ModelCard:
        """Return the card of a trained model, with its scores if it was evaluated.

        Args:
            args: Unused; part of huggingface_hub's signature.
            repository: Name of the repository, for the example.
            metadata: More fields of the card, such as `license="mit"`; they take precedence over those of a subclass.
        """
        run = _trained(self.run)
        declared = self._hub_mixin_info.model_card_data.to_dict()  # type: ignore[no-untyped-call]  # untyped there
        more_tags = [tag for tag in declared.pop("tags", []) if tag != "model_hub_mixin"]
        fields = {
            "library_name": "rieszflow",
            "tags": ["energy-distance", "mmd", "generative-model", run.config.model, *more_tags],
            "pipeline_tag": "unconditional-image-generation" if len(run.shape) == 3 else None,
            **declared,
            **metadata,
        }
        name, networks = _markdown(run.data["name"]), run.config.model == "networks"
        parts = f"{run.trained()} {'networks' if networks else 'parts'}"
        steps = sum(row.flow_steps for row in run.metrics())
        text = _CARD.format(
            metadata=ModelCardData(**fields),
            title=f"{name}: a generative sliced MMD flow",
            kind="A sequence of networks" if networks else "A recorded flow without networks",
            trained=f"{parts} along {steps} flow steps towards {run.data['points']} training data of {name}",
            picture="![from noise to data](images/way.png)\n" if (run.path / "images" / "way.png").is_file() else "",
            example=_example(run, repository),
            scores=_scores(run),
        )
        return ModelCard(text)


def _trained(run: Run | None) -> Run:
    if run is None or not run.trained():
        raise RunError("nothing to publish: call fit first")
    return run


def _markdown(text: object) -> str:
    """Return a text on one line, escaped for Markdown and HTML."""
    return re.sub(r"([\\`*_\[\]<>#|!&~$])", r"\\\1", printable(text))


def _example(run: Run, repository: str) -> str:
    """Return Python code that draws samples from the model, with a condition if it needs one."""
    kind, described = run.config.condition, run.data.get("condition")
    lines, custom, argument, note = ["import rieszflow as rf", ""], "", "", ""
    if run.config.network == "custom":
        lines.append("network = ...  # the nn.Module that it was trained with")
        custom = ", network=network"
    lines.append(f'flow = rf.GenerativeFlow.from_pretrained("{repository}"{custom})')
    if kind == "class" and described is not None:
        label = described["classes"][0]
        argument, note = f"condition={label}, ", f", of class {label}"
    elif described is not None:
        names = ", ".join(map(printable, described["names"])).replace("`", "'")
        moments = zip(described["centre"], described["spread"], strict=True)
        typical = [round(centre, 1 - math.floor(math.log10(spread))) for centre, spread in moments]
        argument, note = f"condition={typical}, ", f", given {names}"
    elif kind:
        lines[0] += "\nimport torch"
        lines.append(f"image = torch.zeros{run.shape}  # only its known part is used: {kind}")
        argument, note = "condition=image, ", ", given this part"
    low, high = run.data["low"], run.data["high"]
    values = f"between {low} and {high}" if len(run.shape) == 3 else "in the data's own values"
    lines.append(f"samples = flow.sample(16, {argument}seed=0)  # {(16, *run.shape)}, {values}{note}")
    return "\n".join(lines)


def _scores(run: Run) -> str:
    found = run.evaluation()
    if found is None:
        return "It was not evaluated.\n"
    with as_file_error(f"{run.path / 'evaluation.json'}: damaged: it does not contain scores"):
        text = f"{int(found['samples'])} samples against {int(found['held_out'])} held-out data:\n\n"
        text += "| score | samples | training data |\n|---|---|---|\n"
        for name, score in found["scores"].items():
            text += f"| {_markdown(name.replace('_', ' '))} | {score['generated']:.4g} | {score['training_data']:.4g} |\n"
        return f"{text}\nFeatures: {_markdown(found['feature_space'])}.\n"
