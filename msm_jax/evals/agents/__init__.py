"""Agent scenarios: conditions, prompts in our own words, what an answer does."""
