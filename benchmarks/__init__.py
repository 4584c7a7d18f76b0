"""How long a spawn stops the loop, how many spawns a second, and what its peers reach. See README.md."""
