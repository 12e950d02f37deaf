"""The HTTP APIs: BFL's, OpenAI's and kleinod's own, and what every route needs."""
