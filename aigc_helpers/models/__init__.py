"""Models, losses and samplers, generated from the notebooks that teach them: edit them there."""
