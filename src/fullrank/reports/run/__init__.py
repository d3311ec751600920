"""The page of a run or study."""
