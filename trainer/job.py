"""The whole of a training job as one frozen model; a job file is read into it by `launch.settings`.

Job
  data      features.settings.DataSettings
  features  features.settings.FeaturesSettings
  feature   {name: features.settings.FeatureSettings}
  table     features.settings.TableSettings
  tower     trainer.settings.TowerSettings
  train     trainer.settings.TrainSettings
  run       trainer.settings.RunSettings
"""

from features.settings import (
    DataSettings,
    FeatureSettings,
    FeaturesSettings,
    Settings,
    TableSettings,
)
from trainer.settings import RunSettings, TowerSettings, TrainSettings


class Job(Settings):
    """A whole job file."""

    data: DataSettings
    features: FeaturesSettings
    feature: dict[str, FeatureSettings] = {}
    """What differs for single features."""
    table: TableSettings = TableSettings()
    tower: TowerSettings = TowerSettings()
    train: TrainSettings = TrainSettings()
    run: RunSettings = RunSettings()
