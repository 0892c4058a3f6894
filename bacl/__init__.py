"""BACL: balanced classification for long-tailed object detection, as MMDetection parts."""

__version__ = "0.2.0"
