"""Where the nodes of a TrainJob run: what the pipeline's placement parameters say of them.

Free of heavy imports: a component's arguments are held against it before anything is started.
"""

from pydantic import Field

from equilibrate_core.config import Config


class Toleration(Config):
    """A Kubernetes toleration, with Kubernetes' own names."""

    key: str | None = None
    """Key of the taint; None with `Exists` tolerates every taint."""
    operator: str | None = None
    """`Exists` or `Equal`; None is `Equal`."""
    value: str | None = None
    """Value of the taint, with `Equal`."""
    effect: str | None = None
    """Effect of the taint; None is every effect."""
    tolerationSeconds: int | None = None
    """Seconds that a pod stays on a node with a `NoExecute` taint; None is for ever."""


class NodePlacement(Config):
    """What every node gets. Without an image the pipeline was compiled for one node."""

    image: str = ""
    """Image of the training stages."""
    cpu: str = "8"
    """CPU cores."""
    memory: str = "64Gi"
    """Main memory, /dev/shm included."""
    scratch: str = "200Gi"
    """Disk for inputs, output and a checkpoint that is being written."""
    accelerators: int = Field(default=0, ge=0)
    """Accelerators of `accelerator_type`."""
    accelerator_type: str = "nvidia.com/gpu"
    """Kubernetes resource name of the accelerator."""
    node_selector: dict[str, str] = Field(default={})
    """Labels of the node pool."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints that the pool's nodes may have."""
    queue: str | None = None
    """Kueue LocalQueue that the job waits in; None starts it without a queue."""
    timeout_s: int = Field(default=72 * 3600, ge=60)
    """Seconds that the job may run; what it waits in the queue does not count."""
    s3_secret: str | None = None
    """Secret whose keys become variables; None leaves that to the runtime."""
    secret_variables: tuple[str, ...] = ()
    """Keys of that secret, equal to the variables' names."""
    model_cache: str | None = None
    """Volume claim with imported models; None passes the weights through S3."""
    runtime: str = "equilibrate-deepspeed"
    """TrainingRuntime of the job."""
