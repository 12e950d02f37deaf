"""From a request to images: latents, sigmas, denoising, prompt embeddings, previews."""
