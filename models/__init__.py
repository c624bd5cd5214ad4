"""Networks, weights, inference, simulator and training. Knows no database, queue or network."""
