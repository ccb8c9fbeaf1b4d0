"""The multi-task network: a pretrained encoder shared by all tasks, and one head for each."""
