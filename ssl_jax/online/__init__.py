"""What runs beside the method: the probe and the collapse alarm in every step; jumps of the loss, pace, progress."""
