"""What pretext tasks are made of: patches, and colours in Lab."""
