"""Images from prompts: one at a time, a folder, or shared by processes."""
