"""The one list of training tasks; `register` adds those of other packages."""

from toklip_jax.core.fields import add_new, check_name
from toklip_jax.tasks.base import Task
from toklip_jax.tasks.generator.task import GENERATOR
from toklip_jax.tasks.grpo.task import GRPO
from toklip_jax.tasks.multimodal.task import MULTIMODAL
from toklip_jax.tasks.teacher.task import TEACHER
from toklip_jax.tasks.toklip.task import TOKLIP
from toklip_jax.tasks.vq.task import PERCEPTUAL_VQ, VQ

TASKS: dict[str, Task] = {}


def register(task: Task) -> Task:
    """Makes a task known by its name.

    Raises:
        ValueError: another task has the name.
    """
    return add_new(TASKS, task.name, task, "a task")


def task_of(name: str, where: str = "a task") -> Task:
    """Returns the task called `name`.

    Raises:
        ValueError: there is none; lists those that exist, and suggests the nearest.
    """
    return TASKS[check_name(where, name, TASKS)]


for _task in (VQ, PERCEPTUAL_VQ, TEACHER, TOKLIP, GENERATOR, GRPO, MULTIMODAL):
    register(_task)
