"""The platform: plans, runs, tracks and reports BACL experiments on Ray and MLflow."""
