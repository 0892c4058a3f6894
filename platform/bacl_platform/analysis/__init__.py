"""Numbers computed from finished jobs and their detections."""
