"""What runs in every step beside the method: the probe, the collapse alarm; and what watches the loss."""
