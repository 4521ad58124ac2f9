"""Images: recipes of augmentation, and how they are carried out on the host and on the device."""
