"""Images that are made here: composites, textures, corruptions, miniatures of official layouts."""
