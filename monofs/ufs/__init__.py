"""Under storage: the interface every store implements, and the stores."""
