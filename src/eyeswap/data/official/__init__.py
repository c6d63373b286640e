"""Official data sets: where their files lie, how they are got, checked and read."""
