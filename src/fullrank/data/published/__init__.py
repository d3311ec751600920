"""Published image sets in their official layout: ImageNet and its shifts, UrbanCars, Waterbirds."""
