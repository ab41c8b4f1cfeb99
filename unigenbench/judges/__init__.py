"""Who looks at the images: a model behind HTTP, one in this process, a recorded run, or a class of the user's."""
