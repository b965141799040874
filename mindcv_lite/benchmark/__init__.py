"""What training and validation cost here: rounds of the same work, timed, and the table of them."""
