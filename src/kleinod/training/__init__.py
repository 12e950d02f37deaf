"""The project's own trainer: data, autoencoder, flow, distillation, export."""
