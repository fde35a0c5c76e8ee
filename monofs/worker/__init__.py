"""The worker: fetches pages from stores once, keeps them in tiers, serves them to readers."""
