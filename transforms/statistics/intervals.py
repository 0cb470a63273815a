"""Constants of normal intervals."""

#: Half the width of a 95 % interval, in standard errors.
HALF_WIDTH = 1.959964
