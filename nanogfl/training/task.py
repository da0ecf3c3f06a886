"""The LightningModule; it only connects network, guidance, assignment and losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from nanogfl.data.batch import Batch, DeferredBatch
from nanogfl.data.device import Store
from nanogfl.model.checkpoint import Card
from nanogfl.model.detector import Detector, exact
from nanogfl.recipe import Recipe, to_dict
from nanogfl.training.cores import Cores, Networks, parts_for
from nanogfl.training.finite import FiniteCheck
from nanogfl.training.graphs import Graphs, compiled
from nanogfl.training.objective import WHOLE, Parts, Share, Targets, split, supervise
from nanogfl.training.optimizer import adamw
from nanogfl.training.schedule import Plan, learning_rate
from nanogfl.training.teacher import Teacher, teaching_loss
from nanogfl.view import MEAN, STD

Predicted = tuple[int, Any, tuple[int, int]]  # index of a validation picture, raw output [P, C + 4 * (R + 1)], (H, W)


class Trained(Protocol):
    """The networks that a loss is computed with: the task itself, or a core's replica."""

    detector: Detector
    guidance: nn.Module | None


class DetectionTask(pl.LightningModule):
    """The training step, the validation step and the optimizer of a detector."""

    priors: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        detector: Detector,
        guidance: nn.Module | None,
        card: Card,
        recipe: Recipe,
        plan: Plan,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__()
        self.detector, self.guidance, self.teacher = detector, guidance, teacher
        self.cores: Cores | None = None
        self.graphs: Graphs | None = None
        self.fused: Trained | None = None  # the networks, compiled by torch.compile
        self.store: Store | None = None  # pictures, if they are stored on the device
        self.card, self.recipe, self.plan = card, recipe, plan
        priors, self.levels = detector.priors(*card.input_size)
        self.register_buffer("priors", priors, persistent=False)
        self.register_buffer("mean", torch.tensor(MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(STD), persistent=False)
        self.names: list[str] = []  # of the pictures since the last optimizer step
        self.finite = FiniteCheck()
        self.rates: list[dict[str, float]] = []
        if recipe.train.freeze == "backbone":
            detector.backbone.requires_grad_(False)

    def normalise(self, images: Tensor) -> Tensor:
        """Convert [B, H, W, 3] BGR, 0 to 255, to [B, 3, H, W] with zero mean and unit deviation."""
        width = images.shape[2]  # whole rows at once: three channels at a time take 20 times as long on a CPU
        rows = (images.flatten(2) - self.mean.repeat(width)).div_(self.std.repeat(width))
        return rows.unflatten(2, (width, 3)).permute(0, 3, 1, 2)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the sum of the loss parts, weighted for the mean over the step's batches."""
        self.names = [*self.names, *batch.names]
        parts = self.accelerated_losses(batch, Share(self._mean, self.trainer.world_size))
        losses = torch.stack(list(parts.values()))
        loss, means = losses.sum(), self._mean(losses.detach())
        self.finite.add(loss, means.sum(), "loss", self.current_epoch, batch.names)
        shown = dict(zip(parts, means, strict=True))
        self.log_dict(shown, prog_bar=True, on_step=True, on_epoch=True, batch_size=len(batch.names))
        return loss * self._step_weight(batch_idx)

    def _step_weight(self, batch_idx: int) -> float:
        """Return 1, or more in an epoch's last step if it has fewer batches: Lightning divides by ``accumulate``."""
        full, batches = self.recipe.train.accumulate, int(self.trainer.num_training_batches)
        rest = batches % full
        return full / rest if batch_idx >= batches - rest else 1.0

    def accelerated_losses(self, batch: Batch, share: Share) -> dict[str, Tensor]:
        """Return the loss parts of a batch, from a replayed graph or from several cores if these are set up."""
        if self.graphs is not None:
            return self.graphs.losses(batch, self.guidance is not None and self._late())
        if self.cores is None:
            return self.losses(self.fused or self, batch, share)
        return self.cores.losses(batch.split(len(self.cores.replicas)), self.losses, share)

    def losses(
        self,
        networks: Trained,
        batch: Batch,
        share: Share,
        supervise: Callable[..., Parts] = supervise,
        tick: Callable[[str], None] = lambda _: None,
    ) -> dict[str, Tensor]:
        """Return the weighted loss parts of a batch.

        Guidance, if any, assigns for both heads. Both learn from the same assignment, the detector also from a teacher.

        Args:
            networks: detector and guidance.
            batch: with pictures [B, H, W, 3].
            share: share of the step that the batch makes up.
            supervise: assigns priors and computes the losses; has the arguments of ``objective.supervise``.
            tick: called with the name of each stage that ends, for timing.
        """
        targets = Targets(batch.boxes, batch.labels, batch.valid, batch.crowd)
        images, reg_max = self.normalise(batch.images), self.card.architecture.reg_max
        detector, guidance = networks.detector, networks.guidance
        features = detector.backbone(images)
        pyramid = detector.neck(features)
        raw = detector.head(pyramid)
        tick("forward")
        guide = None
        if guidance is not None:
            guide = guidance(features, pyramid, detach=self._late())
            tick("guidance")
        taught = None if self.teacher is None else self.teacher.predict(images)

        with torch.autocast(self.device.type, enabled=False):
            parts = supervise(self.recipe.loss, raw, guide, self.priors, self.levels, targets, reg_max, share)
            if taught is not None:
                parts |= teaching_loss(*split(raw.float(), reg_max), taught, self.recipe.loss, share)
            tick("loss")
        return parts

    def on_validation_start(self) -> None:
        """Stop before weights that are not finite are scored, and thus saved."""
        self.finite.check()

    def validation_step(self, batch: tuple[list[int], Tensor, list[tuple[int, int]]], _: int) -> list[Predicted]:
        """Return the raw outputs, in float32 as in ``eval`` and exports; the keeper decodes and scores them."""
        indices, images, shapes = batch
        with torch.autocast(self.device.type, enabled=False), exact():
            raws = self.detector(self.normalise(images)).cpu().numpy()
        return list(zip(indices, raws, shapes, strict=True))

    def configure_optimizers(self) -> Any:
        """Return AdamW without weight decay on norms and biases, and a warm-up and cosine schedule per step."""
        train = self.recipe.train
        optimizer = adamw(self, train, self.plan.lr)
        self.rates = [{key: group[key] for key in ("lr", "weight_decay")} for group in optimizer.param_groups]
        scheduler = LambdaLR(optimizer, lambda step: learning_rate(step, self.plan, train))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Move the teacher to the detector's device; set up CPU cores, compilation and CUDA graphs."""
        if self.teacher is not None:
            self.teacher.to(self.device)
        self.use_cores()
        self.use_compiler()
        if self.trainer.world_size == 1 and self.recipe.train.cuda_graphs:
            self.use_graphs()

    def use_compiler(self) -> None:
        """Compile the network from now on, on a GPU and if the recipe says so."""
        if self.device.type == "cuda" and self.recipe.train.compile:
            self.fused = compiled(self)

    def use_graphs(self) -> None:
        """Replay steps from now on, on a GPU. Not in fp16, which scales losses before their gradients are computed.

        Losses are compiled here only: outside of graphs, each number of boxes would be compiled anew.
        """
        if self.device.type == "cuda" and not self.recipe.train.fp16:
            networks = Networks(self.detector, self.guidance)
            chosen = torch.compile(supervise, dynamic=False) if self.fused else supervise
            self.graphs = Graphs(networks, lambda batch: self.losses(self.fused or self, batch, WHOLE, chosen))

    def use_cores(self) -> None:
        """Split batches over the cores from now on, on a CPU with several cores and if the batch is large enough."""
        threads = torch.get_num_threads()
        parts = parts_for(self.recipe.train.batch, threads)
        if self.device.type == "cpu" and parts > 1:
            self.cores = Cores(Networks(self.detector, self.guidance), parts, max(1, threads // parts))

    def on_train_epoch_start(self) -> None:
        """Freeze the batch statistics of a frozen backbone as well."""
        if self.recipe.train.freeze == "backbone":
            self.detector.backbone.eval()

    def on_train_start(self) -> None:
        """Apply the recipe's rates and decay to a resumed run at once, instead of those in last.ckpt."""
        self.on_train_epoch_start()  # Lightning does not call it when a run resumes within an epoch
        scheduler = self.lr_schedulers()
        assert isinstance(scheduler, LambdaLR)
        scheduler.base_lrs = [rates["lr"] for rates in self.rates]
        factor = learning_rate(scheduler.last_epoch, self.plan, self.recipe.train)
        for group, rates in zip(scheduler.optimizer.param_groups, self.rates, strict=True):
            group |= rates | {"lr": rates["lr"] * factor}

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip, and stop if the gradient is not finite; on a CPU before the weights are updated."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.recipe.train.clip)
        if not self.recipe.train.fp16:  # the fp16 gradient scaler skips such a step
            self.finite.add(norm, self._mean(norm), "gradient", self.current_epoch, self.names)
        self.names = []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add recipe, class names and architecture to the checkpoint; refuse to save weights that are not finite."""
        self.finite.check()
        checkpoint["nanogfl"] = self.card.to_dict() | {"recipe": to_dict(self.recipe)}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch with its own method; draw its pictures if they are stored on the device."""
        del dataloader_idx
        if isinstance(batch, DeferredBatch):
            assert self.store is not None
            return batch.drawn(self.store, self.card.input_size)
        if isinstance(batch, Batch):
            return batch.to(device)
        indices, images, shapes = batch
        return indices, images.to(device, non_blocking=True), shapes

    def _late(self) -> bool:
        return self.current_epoch >= self.recipe.train.detach_guidance * self.plan.epochs

    def _mean(self, total: Tensor) -> Tensor:
        """Return the mean over the processes of a run."""
        if self.trainer.world_size == 1:
            return total
        return self.trainer.strategy.reduce(total.clone(), reduce_op="mean")  # type: ignore[return-value]
