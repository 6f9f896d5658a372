"""The step of the PyTorch recipe, of public parts: what `train_step` measures ours against.

As released: the teacher runs with both towers, although its text feature enters no loss; the
student's text tower and the VQ tokenizer are frozen. What the released implementation pays on top,
an entropy loss over all codes at weight zero, is left out: it is in no public part.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from benchmarks import peer_weights, peers
from toklip_jax.tasks.contrast import MAX_LOGIT_SCALE
from toklip_jax.tasks.toklip.objective import TokLIPObjective
from toklip_jax.training.optimizer import OptimizerConfig


class Recipe:
    """A student, a teacher of two towers, a VQ tokenizer, and AdamW.

    Args:
        params: ours, which the peer starts from; the teacher's text tower has the student's.
        compile: what each model is wrapped in: `torch.compile`, or nothing.
    """

    def __init__(
        self,
        objective: TokLIPObjective,
        params: dict[str, Any],
        optimizer: OptimizerConfig,
        device: torch.device,
        compile: Callable[[Any], Any] = lambda model: model,
    ):
        model, compute = objective.model_config, objective.compute
        self.device, self.weight = device, objective.distillation_weight
        self.dtype, vq_dtype = (getattr(torch, d) for d in (compute.dtype, compute.vq_dtype))
        student = peers.Tokenizer(model)
        peer_weights.copy_weights(params, student)
        teacher = peers.vision_tower(objective.teacher_config)
        texts = [peers.text_tower(model.text) for _ in range(2)]
        peer_weights.copy_image_tower(params["teacher"], teacher)
        for text in texts:
            peer_weights.copy_text_tower(params["text_tower"], text)
        self._trained = student.token_encoder.to(device).train()
        self.vq = self._frozen(student.vq, vq_dtype, compile)
        student.vq.parts.quantize.float()  # distances are float32 in both
        self.codes = student.vq.code_vectors
        self.teacher = self._frozen(teacher, self.dtype, compile)
        self.text, self.teacher_text = (self._frozen(text, self.dtype, compile) for text in texts)
        self.student = compile(self._trained)
        scale = torch.tensor(float(params["logit_scale"]), device=device)
        self.logit_scale = torch.nn.Parameter(scale)
        self.vq_dtype, self.optimizer = vq_dtype, self._adamw(optimizer)

    def __call__(self, images: torch.Tensor, token_ids: torch.Tensor) -> float:
        """One step on uint8 images [b, h, w, 3]; returns the loss."""
        with torch.no_grad():
            images = (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
            codes = self.codes(self.vq(images.to(self.vq_dtype)))
            teacher = _unit(self.teacher(images.to(self.dtype)))
            self.teacher_text(input_ids=token_ids)
            text = _unit(self.text(input_ids=token_ids))
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            image = self.student(codes)
        image = functional.normalize(image.float(), dim=-1)
        logits = self.logit_scale.exp() * image @ text.T
        target = torch.arange(len(logits), device=self.device)
        contrast = functional.cross_entropy(logits, target) + functional.cross_entropy(
            logits.T, target
        )
        loss = contrast / 2 + self.weight * functional.mse_loss(image, teacher)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        return loss.item()

    def _frozen(self, model, dtype, compile):
        return compile(model.to(self.device, dtype).eval().requires_grad_(False))

    def _adamw(self, config):
        """Decay on all that has two or more dimensions, in one kernel where there is one."""
        params = [*self._trained.parameters(), self.logit_scale]
        groups = [
            {"params": [p for p in params if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
        ]
        betas = (config.beta1, config.beta2)
        rate = config.learning_rate / config.warmup_steps
        return torch.optim.AdamW(groups, rate, betas, config.eps, fused=True)


def _unit(output):
    return functional.normalize(output.pooler_output.float(), dim=-1)
