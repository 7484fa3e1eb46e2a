"""The errors a user can meet, as a tree: everything under UserError is theirs to mend."""


class EquilibrateError(Exception):
    """Base of all errors raised on purpose; the command line exits with code 1."""

    exit_code = 1


class UserError(EquilibrateError):
    """A mistake in what the user gave; one clear line and exit code 2."""

    exit_code = 2


class ConfigError(UserError):
    """The run file or a stage's config cannot be used as written."""


class DataError(UserError):
    """A source or an artifact's content cannot be used."""


class ArtifactError(UserError):
    """An artifact is missing, half-written, altered or of the wrong kind."""


class ModelError(UserError):
    """A path or name does not lead to a usable model, tokenizer or scorer."""


class TemplateRefusal(ModelError):
    """The chat template does not render this conversation; others it may."""


class StorageError(UserError):
    """An object store refused or lost something: wrong key, secret, bucket or endpoint."""


class AlteredError(StorageError):
    """What a store holds is not what was written there; other objects may be sound."""


class StageError(EquilibrateError):
    """A stage could not do its work although its inputs were sound."""


class PeerLost(StageError):
    """Another process of a training went away; why, that one knows, or nobody."""


class Preempted(EquilibrateError):
    """Training was told to stop; the same command goes on from its last checkpoint."""

    exit_code = 75  # EX_TEMPFAIL: try again later
