"""How the pipeline makes its tasks: section, code digest, placement and name in one call.

A component, its section and its artifacts -> a placed task.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from equilibrate_core.digests import code_digest, packages_digest
from pipelines.placement import Place


@dataclass(frozen=True)
class TaskMaker:
    """Makes the tasks of one pipeline."""

    given: Mapping[str, Any]
    """Parameter → section as JSON: a pipeline's input, or a text that is compiled in."""
    place: Place
    node_inputs: Callable[..., dict[str, Any]]
    """What a task on several nodes is given besides."""
    cache_epoch: int
    sees_packages: bool
    """Whether tasks run with the libraries that are installed here; on a cluster images decide, and
    an image is an input of its own."""

    def __call__(
        self, component: Any, config: Any, name: str, *, num_nodes: int = 1, **options: Any
    ) -> Any:
        """A task with this section and display name.

        `options` are the component's inputs, and those of `Place`. A task with `num_nodes` above 1
        starts a TrainJob on so many nodes.
        """
        stage = component.component_spec.name.replace("-", "_")
        cached = options.pop("cached", True)
        if num_nodes > 1:
            options |= self.node_inputs(stage, num_nodes)
        task = component(config=config, code_digest=self.code_of(stage), **options)
        return self.place(task, name, cached=cached, num_nodes=num_nodes)

    def code_of(self, stage: str) -> str:
        """What a stage's tasks have in their cache keys as its code."""
        digest = code_digest(stage)
        packages = packages_digest(stage) if self.sees_packages else ""
        parts = (digest, packages, str(self.cache_epoch or ""))
        return ".".join(part for part in parts if part)
