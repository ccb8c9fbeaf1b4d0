"""The SavedModel: signatures, atomic version folders, warm-up requests."""
