"""What happens at each step of a training besides the step itself."""
