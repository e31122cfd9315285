"""What a training run costs before it is started: memory of a device, time of a step, hours and GPU hours."""
