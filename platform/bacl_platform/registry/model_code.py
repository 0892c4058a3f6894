"""What MLflow runs when it loads a registered model: it is copied into the model's folder."""

from mlflow.models import set_model

from bacl_platform.registry.pyfunc import DetectorModel

set_model(DetectorModel())
