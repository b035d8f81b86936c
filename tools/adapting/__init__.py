"""What tools.calibrate runs: a camera's normal footage, its statistics, feedback on alarms."""
