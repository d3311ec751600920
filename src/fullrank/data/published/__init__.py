"""Published image sets in their official layouts: ImageNet and its shifts, UrbanCars, Waterbirds."""
