"""Text that shows a model what it will be used for, and what is gathered while it reads."""
