"""What the training stages share: the trainer's arguments, loading, adapters, data, held-out loss."""
