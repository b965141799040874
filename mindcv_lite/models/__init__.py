"""The networks: tables, cells, a recipe's network."""
