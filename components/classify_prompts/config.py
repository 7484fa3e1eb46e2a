"""Config of classify_prompts."""

from equilibrate_core.judge_config import JudgeConfig


class ClassifyPromptsConfig(JudgeConfig):
    """How prompts are sorted into EHD, IHD, MHD and NONE."""
