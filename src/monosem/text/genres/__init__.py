"""Genres of generated text, one file each: what is written, and how the ability it teaches is tested."""
