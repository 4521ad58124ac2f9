"""Text as a kind of data: tokens, and the forms in which methods read them."""
