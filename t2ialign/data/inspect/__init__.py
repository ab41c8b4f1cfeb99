"""What a data set holds, and what its labels follow."""
