"""Training a SigLIP teacher as a task."""

from toklip_jax.tasks.base import fresh_task
from toklip_jax.tasks.contrast import batch_of_pairs
from toklip_jax.tasks.teacher.objective import TeacherObjective


def _batch(objective: TeacherObjective, size: tuple[int, ...] | None, batch_size: int):
    config = objective.model_config
    return batch_of_pairs(size or config.vision.size, config.text.context_length, batch_size)


TEACHER = fresh_task("teacher", TeacherObjective, role="teacher", batch=_batch)
