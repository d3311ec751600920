"""The papers' linear probe: SGD on random crops, for comparison with their numbers."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn

from fullrank.batch import Batch, as_float
from fullrank.data import BatchLoader, ImageSet
from fullrank.devices import first_device
from fullrank.encoders import Encoder
from fullrank.files import typed_path
from fullrank.places import evaluating
from fullrank.record import Score
from fullrank.runs.folders import checkpoint_path
from fullrank.runs.recipe import SGDProbe
from fullrank.training.callbacks.checkpoints import keep_last, load_state, newest_whole, save_state
from fullrank.training.callbacks.stopping import Stop
from fullrank.views import Views, step_generator, view_pipeline

KIND = "sgd-probe"  # the kind of its checkpoints, which count epochs
LABEL = "label"
VIEWS = "weak,scale=0.08"  # a random resized crop at torchvision's default scale, and a flip
_EVALUATION_BATCH = 256


@dataclass(eq=False)
class SGDProbeRun:
    """A running SGD probe: the linear map, its optimizer, and the test accuracy after each epoch."""

    encoder: Encoder
    classifier: nn.Linear
    optimizer: torch.optim.SGD
    accuracies: list[float] = field(default_factory=list)

    @classmethod
    def begin(cls, encoder: Encoder, settings: SGDProbe, num_classes: int, seed: int) -> Self:
        """Weights from N(0, 0.01), biases 0, as in P1's code."""
        classifier = nn.Linear(encoder.feature_dim, num_classes)
        nn.init.normal_(classifier.weight, std=0.01, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(classifier.bias)
        classifier.to(first_device(encoder))
        rates = settings.model_dump(include={"lr", "momentum", "weight_decay"})
        return cls(encoder, classifier, torch.optim.SGD(classifier.parameters(), **rates))

    def step(self, batch: Batch, views: Views, generator: torch.Generator) -> None:
        """One update of the linear map on one random crop of each image."""
        height, width = batch.images.shape[-2:]
        parameters = views.sample(len(batch), generator, (height, width), batch.sizes)
        with torch.no_grad():
            h = self.encoder(views.apply_first(batch, parameters))
        self.optimizer.zero_grad()
        loss: Tensor = F.cross_entropy(self.classifier(h), batch.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    @torch.no_grad()
    def accuracy(self, test: ImageSet) -> float:
        """The share of labelled test images that are classified correctly."""
        device = first_device(self.encoder)
        predicted = [
            self.classifier(self.encoder(as_float(images.to(device)))).argmax(1).cpu()
            for images in test.batches(_EVALUATION_BATCH)
        ]
        labels = torch.from_numpy(test.labels[LABEL])
        labelled = labels >= 0
        return float((torch.cat(predicted)[labelled] == labels[labelled]).double().mean())

    def save(self, folder: Path) -> None:
        """Write the state after an epoch, whole or not at all. The previous state is kept too."""
        trained = {"classifier": self.classifier.state_dict(), "optimizer": self.optimizer.state_dict()}
        state = trained | {"accuracies": self.accuracies}
        keep_last(save_state(checkpoint_path(folder, len(self.accuracies), KIND), state), keep=2)

    def restore(self, folder: Path) -> None:
        """Continue from the newest undamaged state in `folder`, if there is one."""
        if (path := newest_whole(folder, KIND)) is None:
            return
        state = load_state(path)
        self.classifier.load_state_dict(state["classifier"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.accuracies = state["accuracies"]


def sgd_probe(
    encoder: Encoder,
    train: ImageSet,
    test: ImageSet,
    settings: SGDProbe,
    *,
    folder: Path,
    progress: Progress,
    stop: Stop,
    seed: int = 0,
) -> list[Score]:
    """Accuracy at h of a linear map trained by SGD on crops of `train`, in the last and in the best epoch.

    As in P1's code, the best epoch is chosen on the test images. That number is optimistic, as its name
    tells. P1 also uses the last, smaller batch of an epoch; this probe uses whole batches only.

    Args:
        encoder: The encoder, which is not trained.
        train: Images to train on; those without a label are left out.
        test: Images to test on.
        settings: Epochs, rates and batch size.
        folder: Where the state is saved after each epoch. The same call continues from it.
        progress: The progress line.
        stop: Whether to stop after the current step.
        seed: Seed of the initial weights, the batches and the crops.
    """
    labelled = train.subset((train.labels[LABEL] >= 0).nonzero()[0])
    views = view_pipeline(VIEWS, image_size=train.image_size, channels=train.channels)
    loader = BatchLoader(labelled, min(settings.batch_size, len(labelled)), seed, label=LABEL)
    run = SGDProbeRun.begin(encoder, settings, len(train.class_names[LABEL]), seed)
    run.restore(folder)
    task = progress.add_task("sgd probe", total=settings.epochs, completed=len(run.accuracies), status="")
    with evaluating(encoder):
        for epoch in range(len(run.accuracies), settings.epochs):
            for group in run.optimizer.param_groups:
                group["lr"] = settings.lr * 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs))
            loader.load_state_dict({**loader.state_dict(), "epoch": epoch, "position": 0})
            status = f"test accuracy {100 * run.accuracies[-1]:.1f}" if run.accuracies else ""
            for step, batch in enumerate(loader):
                run.step(batch.to(first_device(encoder)), views, step_generator(seed, epoch, step))
                progress.update(task, completed=epoch + (step + 1) / len(loader), status=status)
                if stop.is_set():
                    saved = "earlier epochs are saved"
                    remedy = f"{saved}, and it resumes with --out {typed_path(folder)} --resume"
                    raise stop.error(f"Stopped in epoch {epoch} of the SGD probe; {remedy}.")
            run.accuracies.append(run.accuracy(test))
            run.save(folder)
    progress.remove_task(task)
    kind: dict[str, Any] = {"place": "h", "label": LABEL, "split": "test", "features": "raw", "shots": None}
    return [
        Score(**kind, probe="sgd", statistic=f"accuracy after the {epoch} epoch", value=value)
        for epoch, value in (("last", run.accuracies[-1]), ("best test", max(run.accuracies)))
    ]
